"""What a model is made of and what it does, beyond AP: a module or a folder for each topic."""

from __future__ import annotations

import logging
from typing import Any

from .summary import Part, Summary, summarize

__all__ = ["Part", "Summary", "summarize"]


def __getattr__(name: str) -> Any:
    if name != "summarise":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    logging.getLogger(__name__).warning("%s.summarise is called summarize now", __name__)
    return summarize
