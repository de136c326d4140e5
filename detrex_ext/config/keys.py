"""Looking up keys of a config: what is there, what a call would accept, what is nearest to a misspelt one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.runtime.standalone.calls import locate

UNKNOWN = object()
"""A value that cannot be known, and so may become anything."""


def has(node: Any, part: str) -> bool:
    """Whether a node has a key, or a list an index."""
    if isinstance(node, ListConfig):
        return part.isdecimal() and part.isascii() and len(part) < 10 and int(part) < len(node)
    return isinstance(node, DictConfig) and not node._is_none() and part in node.keys()


def value_of(node: Any, part: str) -> Any:
    """The value with interpolations resolved; one that cannot be resolved may become anything."""
    try:
        return node[int(part) if isinstance(node, ListConfig) else part]
    except OmegaConfBaseException:
        return UNKNOWN


def keywords(node: Any) -> dict[str, Any]:
    """Keywords that the target of a call accepts by name, with their defaults (None where there is none)."""
    if not isinstance(node, DictConfig) or not has(node, "_target_"):
        return {}
    target = value_of(node, "_target_")
    try:
        target = locate(target) if isinstance(target, str) else target
        parameters = inspect.signature(target).parameters.values()
    except (ImportError, TypeError, ValueError):
        return {}
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind in named}


def default_of_keyword(node: Any, name: str) -> Any:
    """The default of a keyword that a call accepts and the config does not state; `Parameter.empty` if none."""
    return keywords(node).get(name, inspect.Parameter.empty)


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key below a node, those that calls would accept included."""
    names = range(len(node)) if isinstance(node, ListConfig) else node.keys()
    for name in names:
        full = f"{prefix}{name}"
        yield full
        child = node._get_node(name)
        if isinstance(child, DictConfig | ListConfig) and not (child._is_interpolation() or child._is_none()):
            yield from all_keys(child, f"{full}.")
    for name in keywords(node):
        if name not in node:
            yield f"{prefix}{name}"


def nearest(key: str, keys: list[str], count: int = 3) -> list[str]:
    """Keys whose last part looks like that of `key`, those that look like it as a whole first."""
    last = key.rpartition(".")[2]
    scores = {}
    for candidate in keys:
        end = candidate.rpartition(".")[2]
        close = difflib.SequenceMatcher(None, end, last).ratio()
        if candidate != key and end != "_target_" and close >= 0.7:
            bonus = 1.0 if candidate.endswith(f".{key}") else 0.0
            scores[candidate] = bonus + close + difflib.SequenceMatcher(None, candidate, key).ratio()
    best = max(scores.values(), default=0.0)
    near = sorted((k for k, score in scores.items() if score >= best - 0.1), key=lambda k: -scores[k])
    return near[:count]


def neighbors(cfg: DictConfig, key: str) -> list[str]:
    """The keys of the section that `key` would lie in; empty where there is no such section."""
    *path, _ = key.split(".")
    node: Any = cfg
    for part in path:
        if not has(node, part):
            return []
        node = value_of(node, part)
    names = [str(name) for name in node.keys()] if path and isinstance(node, DictConfig) else []
    return [name for name in dict.fromkeys([*names, *keywords(node)]) if name != "_target_"]


def describe(cfg: DictConfig, key: str) -> str:
    """A key in words: its type and what it is now."""
    *path, last = key.split(".")
    node: Any = cfg
    for part in path:
        node = value_of(node, part)
    if not has(node, last):
        return f"not set, default {short(keywords(node).get(last))}"
    value = value_of(node, last)
    return "section" if isinstance(value, DictConfig) else f"{type_name(value)}, now {short(value)}"


def type_name(value: Any) -> str:
    """The type of a value, as messages call it."""
    if isinstance(value, ListConfig | tuple):
        return "list"
    if value is None or value is UNKNOWN:
        return "any type"
    return "callable" if callable(value) else type(value).__name__


def short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def show(value: Any) -> str:
    """Type and value."""
    return "null" if value is None else f"{type_name(value)} {short(value)}"
