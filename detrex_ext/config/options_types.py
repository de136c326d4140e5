"""What a value of a config may be, and whether one fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

UNKNOWN = object()
"""A value that is known only later; it fits everything."""


@dataclass(frozen=True)
class Option:
    """The declaration of an option.

    Attributes:
        type: as in an annotation; None = that of the constructor's argument.
        least, most: bounds of a number or of every number of a list, included. An infinite number needs most=inf.
        above, below: bounds that are excluded.
        choices: the texts that there are.
        pattern: regular expression of a whole text; ``meaning`` says in words what it asks for.
        items: fewest and most entries of a list.
        ascending: whether a list must not fall.
        null: null is taken from another key too, whatever the annotation says: there it is filled in, or told of.
        unit, meaning: for people.
    """

    type: Any = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    items: tuple[int, float] = (0, math.inf)
    ascending: bool = False
    null: bool = False
    unit: str = ""
    meaning: str = ""

    def holds(self, value: Real) -> bool:
        """Whether a number is inside the bounds."""
        if not math.isfinite(value):
            return value == self.most
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        return low and (self.most is None or value <= self.most) and (self.below is None or value < self.below)


def plain(value: Any) -> Any:
    """Sections and lists as dicts and lists, interpolations resolved; a call stays the node that it is."""
    if isinstance(value, DictConfig) and not value._is_none():
        return value if "_target_" in value else {k: plain(item(value, k)) for k in value.keys()}
    if isinstance(value, ListConfig) and not value._is_none():
        return [plain(item(value, i)) for i in range(len(value))]
    return value


def item(node: DictConfig | ListConfig, name: Any) -> Any:
    """The value in a node; ``UNKNOWN`` where it is missing, or its interpolation leads nowhere yet."""
    try:
        return node[name]
    except OmegaConfBaseException:
        return UNKNOWN


def fits(value: Any, kind: Any) -> bool:
    """Whether a ``plain`` value is of a kind, an annotation. A class stands for its object or a call that makes one."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or value is UNKNOWN:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if kind in (None, NoneType) or value is None:
        return value is None and kind in (None, NoneType)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str | Path)
    if origin is Callable or kind is Callable:
        return callable(value) or isinstance(value, DictConfig)
    if is_section(kind) or is_list(kind):
        inner, one = (value.values() if isinstance(value, dict) else value), args[-1 if is_section(kind) else 0 :][:1]
        shaped = isinstance(value, dict if is_section(kind) else list | tuple)
        return isinstance(value, DictConfig) or (shaped and all(fits(v, *one) for v in inner if one))
    return not isinstance(value, bool | str | Real | dict | list | tuple)


def is_section(kind: Any) -> bool:
    """Whether an annotation is of a mapping."""
    base = get_origin(kind) or kind
    return isinstance(base, type) and issubclass(base, Mapping)


def is_list(kind: Any) -> bool:
    """Whether an annotation is of a sequence, but not of texts."""
    base = get_origin(kind) or kind
    return isinstance(base, type) and base is not object and (base is tuple or issubclass(list, base))


def is_numeric(kind: Any) -> bool:
    """Whether a number is among what an annotation allows."""
    if get_origin(kind) is Callable:
        return False
    return kind in (int, float) or any(is_numeric(arg) for arg in get_args(kind))


def entries(value: Any) -> Iterator[Any]:
    """A value, or all those of a list or section."""
    if isinstance(value, list | tuple | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from entries(one)
    else:
        yield value
