"""The texts of an override: whether one is a key, and what value one stands for."""

from __future__ import annotations

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_KEY = re.compile(r"[^\s.\0]+(\.[^\s.\0]+){0,50}")


class Unreadable(Exception):
    """A text that is not even taken as it stands."""


def is_key(text: str) -> bool:
    """Whether a text is names with dots between them: none empty, none with blanks, not endlessly many."""
    return _KEY.fullmatch(text) is not None


def read_value(text: str) -> Any:
    """The value of a text by hydra's grammar.

    Raises:
        HydraException: it is none by that grammar, and so may be a plain text.
        Unreadable: too long or too deep for a value.
    """
    if "\0" in text:
        raise Unreadable("it has a NUL character")
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
        value = parsed.value()
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 300 brackets
        raise Unreadable("it is too long or too deep") from error
    except AttributeError as error:
        if __debug__:
            raise
        raise Unreadable("hydra reads it by assertions, which python -O leaves out: run without -O") from error
    if parsed.is_sweep_override():
        raise HydraException("several values; a list is written [a,b]")
    return value
