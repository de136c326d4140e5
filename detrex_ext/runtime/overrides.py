"""Strict `key=value` overrides of a config.

Values are read with hydra's override grammar. A key must exist or be a keyword that the target of its call accepts;
a value must be of the type of the one it replaces. `+key=value` adds a key, `++key=value` sets whatever is there.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.errors import UserError
from detrex_ext.runtime.standalone.lazy import locate

_ITEM = re.compile(r"^(\+\+|\+)?([^=]*)=(.*)$", re.DOTALL)
_INTERPOLATION = re.compile(r"\$\{[^}]+\}")
_UNKNOWN = object()


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply overrides in place, in order.

    Args:
        overrides: `a.b=3`, `list.0=7`, `a.b={c: 3}` (merged), `a.b=[1,2]`, `x=${a.b}`, `+new=1`, `++any=1`.

    Raises:
        UserError: unknown key, wrong type, a section replaced by a value, a value that cannot be read.
    """
    for number, text in enumerate(overrides, start=1):
        where = f"(override {number} of {len(overrides)})"
        _Override(cfg, text, where).apply()
    return cfg


class _Override:
    """One override: its key is walked down the config, its value read and made to fit."""

    def __init__(self, cfg: DictConfig, text: str, where: str) -> None:
        self.cfg, self.text, self.where = cfg, text, where
        match = _ITEM.match(text)
        if match is None or not match[2].strip() or text.startswith("-"):
            what = "unknown flag" if text.startswith("-") else "not an override:"
            what, hint = f"{what} '{text}' {where}", "overrides have the form key=value, as in train.max_iter=1000"
            if text.startswith("~"):
                hint = f"keys cannot be deleted; set it to null instead: {text[1:]}=null"
            raise UserError(f"{what}\n  {hint}")
        self.mode, self.key, self.raw = match[1] or "", match[2].strip(), match[3]
        self.key = re.sub(r"\[(\d+)\]", r".\1", self.key)

    def apply(self) -> None:
        parent, last = self._parent()
        exists = _has(parent, last)
        expected = _UNKNOWN
        if exists:
            expected = _value(parent, last)
        elif not self.mode:
            expected = _default_of_keyword(parent, last)
            if expected is inspect.Parameter.empty:
                self._unknown_key()
        if self.mode == "+" and exists:
            raise UserError(
                f"'+{self.key}' {self.where} is there already ({_show(expected)})\n"
                f"  to change it: {self.key}={self.raw}"
            )
        if self.mode:
            expected = _UNKNOWN
        self._set(parent, last, self.key, self._parse(expected), expected)

    def _parent(self) -> tuple[Any, str]:
        """The node that holds the last part of the key; sections are made on the way where the mode allows it."""
        *path, last = self.key.split(".")
        node: Any = self.cfg
        for depth, part in enumerate(path):
            if not _has(node, part):
                if not self.mode or isinstance(node, ListConfig):
                    self._unknown_key()
                node[part] = {}
            child = _value(node, part)
            if not OmegaConf.is_config(child):
                name = ".".join(path[: depth + 1])
                raise UserError(f"unknown key '{self.key}' {self.where}\n  {name} is not a section but {_show(child)}")
            node = child
        return node, last

    def _parse(self, expected: Any) -> Any:
        """The value: hydra's reading, or the plain text where that does not exist or a string is wanted."""
        try:
            parsed: Override = OverridesParser.create().parse_override(f"key={self.raw}")
            value = parsed.value()
            if parsed.is_sweep_override():
                raise HydraException("several values; a list is written [a,b]")
        except HydraException as error:
            if expected is None or expected is _UNKNOWN or isinstance(expected, str):
                return self.raw
            wanted = f"expected {_type_name(expected)}, found '{self.raw}'"
            raise UserError(f"{self.key} {self.where}: {wanted}; it is now {_short(expected)}") from error
        if isinstance(expected, str) and isinstance(value, int | float) and not isinstance(value, bool):
            return self.raw
        return value

    def _set(self, parent: Any, last: str, key: str, value: Any, expected: Any) -> None:
        if isinstance(expected, DictConfig) and isinstance(value, dict):
            for name, item in value.items():
                name = str(name)
                inner = _value(expected, name) if _has(expected, name) else _default_of_keyword(expected, name)
                if inner is inspect.Parameter.empty:
                    self._unknown_key(f"{key}.{name}")
                self._set(expected, name, f"{key}.{name}", item, inner)
            return
        value = self._fit(key, value, expected)
        try:
            parent[int(last) if isinstance(parent, ListConfig) else last] = value
            if isinstance(value, str) and _INTERPOLATION.search(value):
                _ = parent[int(last) if isinstance(parent, ListConfig) else last]
        except OmegaConfBaseException as error:
            raise UserError(f"{key} {self.where}: {str(error).splitlines()[0]}") from error

    def _fit(self, key: str, value: Any, expected: Any) -> Any:
        """The value as the type of what it replaces."""
        if expected is None or expected is _UNKNOWN or (isinstance(value, str) and _INTERPOLATION.search(value)):
            return value
        if isinstance(expected, DictConfig):
            if value is None and "_target_" in expected:
                return value
            names = [str(name) for name in expected][:6]
            raise UserError(
                f"{key} {self.where} is a section ({', '.join(names)}), found {_show(value)}\n"
                f"  name a key in it, as in {key}.{(names or ['name'])[0]}=...; to replace it all: ++{key}={self.raw}"
            )
        if value is None:
            return value
        if isinstance(expected, bool):
            fits = isinstance(value, bool)
        elif isinstance(expected, int):
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            fits = isinstance(value, int) and not isinstance(value, bool)
        elif isinstance(expected, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            value = float(value) if fits else value
        elif isinstance(expected, str):
            fits = isinstance(value, str)
        elif isinstance(expected, ListConfig | list | tuple):
            fits = isinstance(value, list)
        elif callable(expected):
            fits = isinstance(value, str)
        else:
            fits = True
        if not fits:
            wanted = f"expected {_type_name(expected)}, found {_show(value)}"
            raise UserError(f"{key} {self.where}: {wanted}; it is now {_short(expected)}")
        return value

    def _unknown_key(self, key: str | None = None) -> NoReturn:
        key = key or self.key
        near = _nearest(key, list(_all_keys(self.cfg)))
        lines = [f"unknown key '{key}' {self.where}"]
        hint = []
        if near:
            described = [f"{name} ({_describe(self.cfg, name)})" for name in near]
            hint.append(f"did you mean {' or '.join(described)}?")
        if "@" not in key and not key.startswith("-"):
            value = self.raw if key == self.key else "..."
            hint.append(f"a new key on purpose: +{key}={value}")
        if hint:
            lines.append("  " + "   ".join(hint))
        raise UserError("\n".join(lines))


def _has(node: Any, part: str) -> bool:
    if isinstance(node, ListConfig):
        return part.isdigit() and int(part) < len(node)
    return isinstance(node, DictConfig) and not node._is_none() and part in node.keys()


def _value(node: Any, part: str) -> Any:
    """The value with interpolations resolved; one that cannot be resolved may become anything."""
    try:
        return node[int(part) if isinstance(node, ListConfig) else part]
    except OmegaConfBaseException:
        return _UNKNOWN


def _keywords(node: Any) -> dict[str, Any]:
    """Keywords that the target of a call accepts by name, with their defaults (None where there is none)."""
    if not isinstance(node, DictConfig) or not _has(node, "_target_"):
        return {}
    target = _value(node, "_target_")
    try:
        target = locate(target) if isinstance(target, str) else target
        parameters = inspect.signature(target).parameters.values()
    except (ImportError, TypeError, ValueError):
        return {}
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind in named}


def _default_of_keyword(node: Any, name: str) -> Any:
    """The default of a keyword that a call accepts and the config does not state; `Parameter.empty` if none."""
    return _keywords(node).get(name, inspect.Parameter.empty)


def _all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    names = range(len(node)) if isinstance(node, ListConfig) else node.keys()
    for name in names:
        full = f"{prefix}{name}"
        yield full
        child = node._get_node(name)
        if isinstance(child, DictConfig | ListConfig) and not (child._is_interpolation() or child._is_none()):
            yield from _all_keys(child, f"{full}.")
    for name in _keywords(node):
        if name not in node:
            yield f"{prefix}{name}"


def _nearest(key: str, keys: list[str], count: int = 3) -> list[str]:
    """Keys that look like the whole key, then keys that end as it does."""
    keys = [k for k in keys if k != key and not k.endswith("_target_")]
    near = difflib.get_close_matches(key, keys, n=count, cutoff=0.75)
    near += [k for k in keys if k.endswith(f".{key}")]
    if not near:
        last = key.rpartition(".")[2]
        ends = difflib.get_close_matches(last, {k.rpartition(".")[2]: None for k in keys}, n=1, cutoff=0.75)
        near = [k for k in keys if k.rpartition(".")[2] in ends]
        near = sorted(near, key=lambda k: -difflib.SequenceMatcher(None, k, key).ratio())
    return list(dict.fromkeys(near))[: 1 if len(near) == 1 else count]


def _describe(cfg: DictConfig, key: str) -> str:
    *path, last = key.split(".")
    node: Any = cfg
    for part in path:
        node = _value(node, part)
    if not _has(node, last):
        return f"not set, default {_short(_keywords(node).get(last))}"
    value = _value(node, last)
    return "section" if isinstance(value, DictConfig) else f"{_type_name(value)}, now {_short(value)}"


def _type_name(value: Any) -> str:
    if isinstance(value, ListConfig | tuple):
        return "list"
    if value is None or value is _UNKNOWN:
        return "any type"
    return "callable" if callable(value) else type(value).__name__


def _short(value: Any) -> str:
    text = getattr(value, "__qualname__", None) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _show(value: Any) -> str:
    return "null" if value is None else f"{_type_name(value)} {_short(value)}"
