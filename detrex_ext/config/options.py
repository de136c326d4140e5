"""The check of a config: every option of a declared type and range, every argument one that its constructor takes.

What options may be is declared in `options_keys.py` (by key) and `options_arguments.py` (of constructors, by name);
`docs/config.md` is written from the same declarations.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.errors import UserError
from detrex_ext.runtime.standalone.calls import locate

from .files import defined_in
from .options_arguments import LATE, NOT_ABOVE
from .options_keys import KEYS, SECTIONS
from .options_targets import Argument, arguments, is_ours
from .options_types import UNKNOWN, Option, entries, fits, item, plain
from .options_words import fault, nearest, shown

_SECTION = dict[str, Any]
_Fault = tuple[str, list[str], bool]
"""The key that a person would change, lines of the message, and whether the key itself is what is wrong."""


def check_options(cfg: DictConfig, sections: Sequence[str] | None = None) -> DictConfig:
    """Refuses a config with values that cannot be meant; one that leaves options out is as good as a whole one.

    Args:
        cfg: a config; nothing is imported but what it names.
        sections: those to look at; None = all.

    Returns:
        ``cfg``, as it was.

    Raises:
        UserError: every option that cannot be used, with what is expected and the nearest value that would do.
    """
    found: dict[str, list[str]] = {}
    for key, lines, own in _faults(cfg, "", sections):
        if own or key not in found:  # of the places that take a value the one that states it knows best
            found[key] = lines
    if found:
        parts = list(found.values())
        if len(parts) == 1:
            raise UserError("\n  ".join(parts[0]))
        head = f"{len(parts)} options of the config cannot be used"
        raise UserError("\n".join([head, *("  " + "\n    ".join(lines) for lines in parts)]))
    return cfg


def allows(cfg: DictConfig, key: str, value: Any) -> bool:
    """Whether the declaration of a key, where there is one, takes a value of another type than the one it has now."""
    *path, last = key.split(".")
    node: Any = cfg
    for part in path:
        node = item(node, int(part) if isinstance(node, ListConfig) else part)
    target = None if isinstance(node, ListConfig) else _target(node, "")
    known = arguments(target)[0].get(last) if callable(target) else None
    argument = _declared(key, known)
    return argument is not None and argument.kind is not Any and fits(value, argument.kind)


def _faults(node: DictConfig | ListConfig, prefix: str, only: Sequence[str] | None = None) -> Iterator[_Fault]:
    """The faults of a node."""
    target = _target(node, prefix)
    if isinstance(target, list):
        yield f"{prefix}_target_", target, True
        target = None
    known, open_ended = arguments(target) if target is not None else ({}, True)
    names = list(range(len(node))) if isinstance(node, ListConfig) else [n for n in node.keys() if n != "_target_"]
    for name in names if only is None else only:
        key = f"{prefix}{name}"
        if not open_ended and name not in known:
            yield key, _no_such_argument(key, target, known), True
            continue
        value = item(node, name)
        child = node._get_node(name)
        if value is UNKNOWN and (key in SECTIONS or key.startswith("train.")) and child._is_interpolation():
            yield key, [f"{key}={shown(child._value())}: refers to what is not there, or to itself"], True
        argument = _declared(key, known.get(name))
        if argument is not None:
            source = _source(node, name, key)
            late = argument.option.null and value is None and source != key
            for lines in () if late else _checked(source, plain(value), argument):
                yield source, lines, source == key
        if isinstance(child, DictConfig | ListConfig) and not (child._is_interpolation() or child._is_none()):
            yield from _faults(child, f"{key}.")
    if target is not None:
        yield from _together(node, prefix, target, known)


def _checked(key: str, value: Any, argument: Argument) -> Iterator[list[str]]:
    wrong = fault(value, argument.kind, argument.option)
    if wrong:
        lines = [f"{key}={shown(value)}: {wrong}"]
        default = _shipped(key) if argument.default is UNKNOWN else argument.default
        near = nearest(value, argument.kind, argument.option, default)
        yield lines + ([] if near is UNKNOWN else [f"the nearest that would do: {key}={shown(near)}"])


def _together(node: DictConfig, prefix: str, target: Any, known: dict[str, Argument]) -> Iterator[_Fault]:
    """Arguments that are missing, or do not suit each other."""
    name = getattr(target, "__name__", "")
    if is_ours(target):
        needed = [n for n, a in known.items() if a.default is UNKNOWN and n not in node and (name, n) not in LATE]
        for missing in needed:
            yield f"{prefix}{missing}", [f"{prefix}{missing}: {name} needs it, and nothing is given"], True
    for _, small, large in (row for row in NOT_ABOVE if row[0] == name):
        low, high = (plain(item(node, n)) if n in node else None for n in (small, large))
        most = max((v for v in entries(low) if isinstance(v, int)), default=0)
        if isinstance(high, int) and most > high > 0:
            key, other = _source(node, small, f"{prefix}{small}"), _source(node, large, f"{prefix}{large}")
            text = f"{key}={shown(low)}: expected at most {other}, which is {high}"
            yield key, [text, f"for example {other}={most}"], False


def _target(node: DictConfig | ListConfig, prefix: str) -> Any:
    """The class or function that a node calls; None where it calls nothing, lines of a message where it cannot."""
    if isinstance(node, ListConfig) or "_target_" not in node:
        return None
    name = target = item(node, "_target_")
    reason = "found " + shown(name)
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception as error:  # whatever a module does when it is imported
            target, reason = None, " ".join(str(error).split()) or type(error).__name__
    if callable(target) or isinstance(target, DictConfig) or target is UNKNOWN:
        return target if callable(target) else None
    own = defined_in(name) if isinstance(name, str) else None
    if own:
        return [
            f"{prefix}_target_: {own[0]} was defined in {own[1]}, a config file or overlay, where nothing finds it",
            f"put it into a module on PYTHONPATH and name it here, as in {prefix}_target_=my_parts.{own[0]}",
            "or use the config and the overlays that the run was started with",
        ]
    return [f"{prefix}_target_={shown(name)}: expected the dotted name of a class or function; {reason}"]


def _no_such_argument(key: str, target: Any, known: dict[str, Argument]) -> list[str]:
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(last, known, 3, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(known) or 'none'}"
    return [f"{key}: {getattr(target, '__name__', target)} has no option '{last}'", hint]


def _declared(key: str, argument: Argument | None) -> Argument | None:
    """What is known of a key: by its name, else as an argument of a constructor."""
    option = KEYS.get(key)
    if option is None:
        return argument or (Argument(_SECTION, UNKNOWN, Option()) if key in SECTIONS else None)
    return Argument(Any if option.type is None else option.type, argument.default if argument else UNKNOWN, option)


def _source(node: DictConfig | ListConfig, name: Any, key: str) -> str:
    """The key that an interpolated value comes from, or its own."""
    try:
        found = node._get_node(name)._dereference_node()
        if found._key() is None:
            return key
        return found._get_full_key("").replace("[", ".").replace("]", "") or key
    except (OmegaConfBaseException, AttributeError):
        return key


def _shipped(key: str) -> Any:
    """The value of `configs/common/train.py`, for a message."""
    from detrex_ext.config import get_config  # the package imports this module

    return OmegaConf.select(get_config("common/train.py"), key, default=UNKNOWN)
