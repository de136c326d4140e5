"""What a model is made of and what it does, beyond AP: a module or a folder for each topic."""

from .summary import Part, Summary, summarize

summarize = summarize  # its former name

__all__ = ["Part", "Summary", "summarize"]
