"""``zoo.json``: the models of this project, each with what made it and the digest of its file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from detrex_ext.config.files import shipped_configs
from detrex_ext.errors import UserError

FILE = Path(__file__).resolve().parents[1] / "zoo.json"
_NAME, _LINE = "[a-z][a-z0-9_]{0,59}", "[ -~]{1,300}"
_WHERE = r"(https://[a-zA-Z0-9-][\w.-]*/([\w-][\w.~-]*/)*)?[\w.-]+"


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: behind ``zoo:``.
        config, overlays, overrides: short names of shipped ones, and ``key=value``: what was trained.
        seed, commit, hardware, command: what it was built by, of what, on what.
        data: what it was trained and evaluated on.
        metric: of the validation split, by name.
        sha256, size: of the file, in hexadecimal digits and bytes.
        license: of ``data`` and ``weights``.
        where: name of the file that a release carries, or its https address. Both end with NAME-DIGITS.pth, the first
            eight of ``sha256``.
    """

    name: str
    config: str
    overlays: list[str]
    overrides: list[str]
    seed: int
    commit: str
    hardware: str
    command: str
    data: str
    metric: dict[str, float]
    sha256: str
    size: int
    license: dict[str, str]
    where: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.where.rpartition("/")[2]


def _text(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def _list(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(_text(pattern), value))


def _whole(below: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value < below


def _is_metric(value: Any) -> bool:
    numbers = list(value.values()) if isinstance(value, dict) else []
    return bool(numbers) and all(type(one) in (int, float) and math.isfinite(one) for one in numbers)


def _is_config(value: Any) -> bool:
    return isinstance(value, str) and value in shipped_configs()


def _is_license(value: Any) -> bool:
    return isinstance(value, dict) and sorted(value) == ["data", "weights"] and all(map(_text(_LINE), value.values()))


# field -> (what it is, in words; whether a value is that)
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("small letters, digits and _", _text(_NAME)),
    "config": ("the short name of a shipped config", _is_config),
    "overlays": ("names of overlays", _list("[a-z0-9_]+")),
    "overrides": ("a list of key=value", _list(r"(?!.*_target_)[\w.]+=[\w.,+-]*")),
    "seed": ("a whole number", _whole(2**63)),
    "commit": ("40 hexadecimal digits", _text("[0-9a-f]{40}")),
    "hardware": ("a line of text", _text(_LINE)),
    "command": ("a line of text", _text(_LINE)),
    "data": ("a line of text", _text(_LINE)),
    "metric": ("numbers by name", _is_metric),
    "sha256": ("64 hexadecimal digits", _text("[0-9a-f]{64}")),
    "size": ("a number of bytes", _whole(2**40)),
    "license": ("texts for data and weights", _is_license),
    "where": ("a name of a file, or an https address of one", _text(_WHERE)),
}


def entries() -> dict[str, Entry]:
    """The models of ``zoo.json`` by name.

    Raises:
        UserError: the file is missing, or states what cannot be.
    """
    try:
        listed = json.loads(FILE.read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{FILE}: cannot be read ({type(error).__name__})\n  install detrex_ext again") from error
    found: dict[str, Entry] = {}
    for number, item in enumerate(listed if isinstance(listed, list) else [listed], 1):
        problem = entry_problem(item)
        if not problem and item["name"] in found:
            problem = f"there is another one named {item['name']}"
        if problem:
            raise UserError(f"{FILE}: model {number}: {problem}\n  install detrex_ext again, or mend the entry")
        found[item["name"]] = Entry(**item)
    return found


def entry_problem(item: Any) -> str:
    """What is wrong with an entry as JSON has it; "" = nothing."""
    names = [field.name for field in fields(Entry)]
    if not isinstance(item, dict) or set(item) != set(names):
        return f"expected an object of {', '.join(names)}"
    for key, (words, fits) in _KINDS.items():
        if not fits(item[key]):
            return f"its '{key}' is {str(item[key])[:80]!r}, expected {words}"
    if (file := Entry(**item).file) != (wanted := file_name(item["name"], item["sha256"])):
        return f"its 'where' names {file[:80]!r}, expected {wanted}, by its name and digest"
    return ""


def file_name(name: str, sha256: str) -> str:
    """What the file of a model is called."""
    return f"{name}-{sha256[:8]}.pth"
