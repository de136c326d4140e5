"""Training strategies: overlays on any staged decoder. They own no parameters and vanish at inference."""

from .base import Strategy

__all__ = ["Strategy"]
