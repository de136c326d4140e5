"""Training strategies: overlays on any staged decoder. They own no parameters and vanish at inference."""

from .base import Strategy
from .recollection import QueryRecollection

__all__ = ["QueryRecollection", "Strategy"]
