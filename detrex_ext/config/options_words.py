"""What is wrong with a value of a config, in words, and which value would do."""

from __future__ import annotations

import difflib
import math
import re
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig

from .options_types import UNKNOWN, Option, entries, fits, is_list, is_numeric, is_section, plain

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
    Any: "anything",
}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_SANE = 1000  # a bound beyond it only keeps absurd values out: it is told to who gave one
_PLAIN = Option()


def fault(value: Any, kind: Any, option: Option) -> str:
    """What is wrong with a ``plain`` value of a kind (an annotation); "" = nothing."""
    unit = f" ({option.unit})" if option.unit else ""
    if not fits(value, kind):
        limits = f", {bounds(option)}" if is_numeric(kind) and bounds(option) else ""
        return f"expected {described(kind, option)}{limits}{unit}, found {_found(value)}"
    listed = isinstance(value, list | tuple)
    held = not is_section(kind) or get_args(kind)[1:] != (Any,)  # in a section of anything all is free
    for one in entries(value) if held else ():
        if isinstance(one, Real) and not isinstance(one, bool) and not option.holds(one):
            return f"expected {bounds(option, one)}{unit}{', each' if listed else ''}"
        if isinstance(one, str) and option.choices and one not in option.choices:
            return f"expected {'some' if listed else 'one'} of {_choices(option)}"
    if isinstance(value, str) and option.pattern and not re.fullmatch(option.pattern, value):
        return f"expected {option.meaning}"
    if listed and not option.items[0] <= len(value) <= option.items[1]:
        least, most = option.items
        return f"expected {least if least == most else f'at least {least}'} entries, found {len(value)}"
    if listed and option.ascending and list(value) != sorted(value):
        return "expected entries that do not fall"
    return ""


def nearest(value: Any, kind: Any, option: Option, default: Any) -> Any:
    """The value that would do and is nearest to one that does not; ``UNKNOWN`` where there is none to name."""
    tries: list[Any] = []
    if isinstance(value, str):
        tries += difflib.get_close_matches(value, option.choices, 1)
    if isinstance(value, Real) and math.isfinite(value):
        tries.append(round(value))
        tries += [option.least] if option.least is not None and value < option.least else []
        tries += [option.most] if option.most is not None and value > option.most else []
    for one in (*tries, default):
        known = one is not None and one is not UNKNOWN and not isinstance(one, DictConfig)
        if known and not fault(plain(one), kind, option):
            return one
    return UNKNOWN


def described(kind: Any, option: Option = _PLAIN) -> str:
    """An annotation in words: "a whole number or null"."""
    origin, args = get_origin(kind), get_args(kind)
    if option.choices and (kind is str or origin in (Union, UnionType)):
        return "one of " + _choices(option) + " or null" * (NoneType in args)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(described(arg) for arg in args))
    if origin is Literal:
        return "one of " + ", ".join(map(shown, args))
    if kind in _WORDS:
        return _WORDS[kind]
    if is_section(kind) or is_list(kind):
        what, one = ("section", args[1:]) if is_section(kind) else ("list", args[:1])
        many = _MANY.get(one[0], "sections" if is_section(one[0]) else "parts") if one else ""
        return f"a {what}" + (f" of {many}" if one and one[0] is not Any else "")
    return "a part (a section with _target_)"


def bounds(option: Option, value: Real | None = None) -> str:
    """The bounds in words; with a value that is not inside, as far as they concern it."""
    o, low, high = option, "", ""
    if o.least is not None or o.above is not None:
        low = f"at least {o.least:,}" if o.least is not None else f"more than {o.above:,}"
    if o.most not in (None, math.inf) or o.below is not None:
        high = f"at most {o.most:,}" if o.most is not None else f"less than {o.below:,}"
    if value is None and (o.most or 0) > _SANE:
        high = ""
    if value is not None and math.isfinite(value) and (o.most or 0) > _SANE:
        low, high = ("", high) if value > o.most else (low, "")
    both = " and ".join(part for part in (low, high) if part)
    if value is None or math.isfinite(value):
        return both
    return f"a finite number{both and ', '}{both}"


def shown(value: Any) -> str:
    """A value as an override has it, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, DictConfig):
        target = value.get("_target_")
        return f"a call of {getattr(target, '__name__', target)}"
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return (text if len(text) <= 60 else f"{text[:57]}...") or "''"


def _found(value: Any) -> str:
    kind = {str: "the text ", list: "the list ", dict: "the section "}.get(type(value), "")
    return f"{kind}{shown(value)}"


def _choices(option: Option) -> str:
    return ", ".join(choice or "''" for choice in option.choices)
