"""Strict `key=value` overrides of a config.

Values are read with hydra's override grammar. A key must exist or be a keyword that the target of its call accepts;
a value must be of the type of the one it replaces; `~/` in front of it is the home folder. `+key=value` adds a key,
`++key=value` sets whatever is there.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.config.options import allows
from detrex_ext.errors import UnknownKeyError, UserError

from .keys import (
    UNKNOWN,
    all_keys,
    default_of_keyword,
    describe,
    has,
    nearest,
    neighbors,
    short,
    show,
    type_name,
    value_of,
)
from .upgrade import renamed_key, renamed_target
from .values import Unreadable, is_key, read_value

_ITEM = re.compile(r"^(\+\+|\+)?([^=]*)=(.*)$", re.DOTALL)
_INTERPOLATION = re.compile(r"\$\{[^}]+\}")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply overrides in place, in order.

    Args:
        cfg: changed.
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
        self.key = renamed_key(re.sub(r"\[(\d+)\]", r".\1", self.key))
        if not is_key(self.key):
            raise UserError(f"{short(self.key)} {where} is no key: expected names with dots between, as train.max_iter")

    def apply(self) -> None:
        parent, last = self._parent()
        exists = has(parent, last)
        expected = UNKNOWN
        if exists:
            expected = value_of(parent, last)
        elif not self.mode:
            expected = default_of_keyword(parent, last)
            if expected is inspect.Parameter.empty:
                self._unknown_key()
        if self.mode == "+" and exists:
            raise UserError(
                f"'+{self.key}' {self.where} is there already ({show(expected)})\n"
                f"  to change it: {self.key}={self.raw}"
            )
        if self.mode:
            expected = UNKNOWN
        self._set(parent, last, self.key, self._parse(expected), expected)

    def _parent(self) -> tuple[Any, str]:
        """The node that holds the last part of the key; sections are made on the way where the mode allows it."""
        *path, last = self.key.split(".")
        node: Any = self.cfg
        for depth, part in enumerate(path):
            if not has(node, part):
                if not self.mode or isinstance(node, ListConfig):
                    self._unknown_key()
                node[part] = {}
            child = value_of(node, part)
            if not OmegaConf.is_config(child):
                why = f"{'.'.join(path[: depth + 1])} is not a section but {show(child)}"
                raise UnknownKeyError(f"unknown key '{self.key}' {self.where}\n  {why}")
            node = child
        return node, last

    def _parse(self, expected: Any) -> Any:
        """The value: hydra's reading, or the plain text where that does not exist or a string is wanted."""
        try:
            value = read_value(self.raw)
        except Unreadable as error:
            raise UserError(f"{self.key} {self.where}: {short(self.raw)} cannot be read: {error}") from error
        except HydraException as error:
            if expected is None or expected is UNKNOWN or isinstance(expected, str):
                return self.raw
            wanted = f"expected {type_name(expected)}, found '{self.raw}'"
            raise UserError(f"{self.key} {self.where}: {wanted}; it is now {short(expected)}") from error
        if isinstance(expected, str) and isinstance(value, int | float) and not isinstance(value, bool):
            return self.raw
        return value

    def _set(self, parent: Any, last: str, key: str, value: Any, expected: Any) -> None:
        if isinstance(expected, DictConfig) and isinstance(value, dict):
            for name, item in value.items():
                name = str(name)
                inner = value_of(expected, name) if has(expected, name) else default_of_keyword(expected, name)
                if inner is inspect.Parameter.empty:
                    self._unknown_key(f"{key}.{name}")
                self._set(expected, name, f"{key}.{name}", item, inner)
            return
        value = self._fit(key, renamed_target(value) if last == "_target_" else value, expected)
        if isinstance(value, str) and value.startswith("~/"):
            value = os.path.expanduser(value)  # a shell does so only at the beginning of a word
        try:
            parent[int(last) if isinstance(parent, ListConfig) else last] = value
            if isinstance(value, str) and _INTERPOLATION.search(value):
                _ = parent[int(last) if isinstance(parent, ListConfig) else last]
        except OmegaConfBaseException as error:
            raise UserError(f"{key} {self.where}: {str(error).splitlines()[0]}") from error

    def _fit(self, key: str, value: Any, expected: Any) -> Any:
        """The value as the type of what it replaces."""
        if expected is None or expected is UNKNOWN or (isinstance(value, str) and _INTERPOLATION.search(value)):
            return value
        if isinstance(expected, DictConfig):
            if value is None and "_target_" in expected:
                return value
            names = [str(name) for name in expected if name != "_target_"][:6]
            raise UserError(
                f"{key} {self.where} is a section ({', '.join(names)}), found {show(value)}\n"
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
        if not fits and not allows(self.cfg, key, value):
            wanted = f"expected {type_name(expected)}, found {show(value)}"
            raise UserError(f"{key} {self.where}: {wanted}; it is now {short(expected)}")
        return value

    def _unknown_key(self, key: str | None = None) -> NoReturn:
        key = key or self.key
        near = nearest(key, list(all_keys(self.cfg)))
        lines = [f"unknown key '{key}' {self.where}"]
        hint = []
        if near:
            described = [f"{name} ({describe(self.cfg, name)})" for name in near]
            hint.append(f"did you mean {' or '.join(described)}?")
        elif beside := neighbors(self.cfg, key):
            lines.append(f"  {key.rpartition('.')[0]} has: {', '.join(beside)}")
        strategy = re.match(r"model\.strategies\.(\w+)\.", key)
        if strategy and OmegaConf.select(self.cfg, strategy[0][:-1]) is None:
            hint.append(f"a strategy comes by its overlay: --overlay {strategy[1]}")
        elif "@" not in key and not key.startswith("-"):
            value = self.raw if key == self.key else "..."
            hint.append(f"a new key on purpose: +{key}={value}")
        if hint:
            lines.append("  " + "   ".join(hint))
        raise UnknownKeyError("\n".join(lines))
