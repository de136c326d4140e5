"""What a model is made of and what it does, beyond AP."""

from .summary import Part, Summary, summarise

__all__ = ["Part", "Summary", "summarise"]
