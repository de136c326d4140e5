"""Models of other projects as ours."""

from .detrex import as_guest, from_detrex

__all__ = ["as_guest", "from_detrex"]
