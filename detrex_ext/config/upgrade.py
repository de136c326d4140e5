"""Configs of before, said as they are said now: new names, absolute references, dicts of parts that are calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from detrex_ext.runtime.standalone.calls import locate

from .renamed import KEYS, TARGETS

_log = logging.getLogger(__name__)
_RELATIVE = re.compile(r"\$\{(\.+)")
# arguments that are dicts of parts, whatever takes them
_PARTS = ("strategies", "rules", "terms")
_LEVELLED = ("encoder", "decoder")
# one key of the whole model -> those that its parts have of it
_SIZES = {
    "dim": ("neck.out_channels", "encoder.dim", "queries.dim", "queries.source.dim", "decoder.dim"),
    "num_levels": ("neck.num_outs", "encoder.num_levels", "decoder.num_levels"),
    "num_heads": ("encoder.num_heads", "decoder.num_heads"),
}


def upgrade(cfg: Any) -> Any:
    """Renames what has a new name and turns plain dicts of parts into calls of ``dict``, in place.

    Such dicts (``model.strategies``, ``model.rules``, ``terms``) hold calls, and ``instantiate`` makes only those that
    lie in another call.
    """
    if not isinstance(cfg, DictConfig) or cfg._is_none():
        return cfg
    for old, new in KEYS.items():
        if OmegaConf.select(cfg, old, throw_on_resolution_failure=False) is not None:
            parent, last = _holder(cfg, old)
            OmegaConf.update(cfg, new, parent.pop(last), force_add=True)
            _log.warning("config: '%s' is called '%s' now", old, new)
    for holder, key, child in list(walk(cfg)):
        if key == "_target_" and (name := renamed_target(child._value())) != child._value():
            holder[key] = name
        if key in _PARTS and isinstance(holder, DictConfig) and "_target_" in holder:
            as_call(child)
    _levels(cfg)
    return cfg


def _levels(cfg: DictConfig) -> None:
    """``model.encoder.num_levels``, once the key for all parts of DINO, still is, where no other part has its own."""
    here, there = (OmegaConf.select(cfg, f"model.{part}", throw_on_resolution_failure=False) for part in _LEVELLED)
    if not all(isinstance(part, DictConfig) and "num_levels" in part for part in (here, there)):
        return
    ours, theirs = (part._get_node("num_levels")._value() for part in (here, there))
    if isinstance(ours, int) and theirs == "${model.num_levels}" and ours != cfg.model.num_levels:
        cfg.model.num_levels, here.num_levels = ours, "${model.num_levels}"
        _log.warning("'model.encoder.num_levels' is called 'model.num_levels' now")


def as_call(node: Any) -> None:
    """Makes a plain dict a call of ``dict``, in place; anything else stays."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_interpolation() or "_target_" in node):
        node["_target_"] = "builtins.dict"


def parts(node: Any) -> dict[str, Any]:
    """The parts in a dict of parts (``model.strategies``) by name; none of None."""
    return {str(name): node[name] for name in node or () if name != "_target_"}


def renamed_key(key: str) -> str:
    """The key as it is called now."""
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            _log.warning("'%s' is called '%s' now", old, new)
            return new + key[len(old) :]
    return key


def renamed_target(target: Any) -> Any:
    """The name of a target as it is now; a class or function stays."""
    if not isinstance(target, str) or target not in TARGETS:
        return target
    _log.warning("config: %s is called %s now", target, TARGETS[target])
    return TARGETS[target]


def absolute(cfg: DictConfig) -> DictConfig:
    """Makes relative references (``${..num_classes}``) absolute, in place, so that nodes may be moved about."""
    for holder, key, child in list(walk(cfg)):
        value = child._value()
        if isinstance(value, str) and _RELATIVE.search(value):
            holder[key] = _RELATIVE.sub(lambda dots, of=holder: "${" + _prefix(of, len(dots[1]) - 1), value)
    return cfg


def one_size(cfg: DictConfig) -> DictConfig:
    """Gives a detector's config of before the one key of each size that its parts agree on, in place."""
    model = OmegaConf.select(cfg, "model", throw_on_resolution_failure=False)
    target = model.get("_target_") if isinstance(model, DictConfig) else None
    if getattr(target, "__name__", str(target).rpartition(".")[2]) != "Detector":
        return cfg
    for size, names in _SIZES.items():
        found = {key: OmegaConf.select(model, key) for key in names}
        found = {key: value for key, value in found.items() if isinstance(value, int)}
        if size in model or len(set(found.values())) != 1:
            continue
        model[size] = next(iter(found.values()))
        for key in found:
            OmegaConf.update(model, key, f"${{model.{size}}}")
    return cfg


def _prefix(container: Any, levels: int) -> str:
    for _ in range(levels):
        container = container._get_parent_container()
    path = full_key(container)
    return f"{path}." if path else ""


def full_key(node: Any) -> str:
    """The dotted key of a node, ``a.list[0].b``; "" for the whole config."""
    parent = node._get_parent_container()
    return parent._get_full_key(node._key()) if parent is not None else ""


def _holder(cfg: DictConfig, key: str) -> tuple[DictConfig, str]:
    path, _, last = key.rpartition(".")
    return (OmegaConf.select(cfg, path) if path else cfg), last


def called(node: Any) -> Callable | None:
    """The target of a call; None where a node is none.

    Raises:
        ImportError: there is nothing of its name.
    """
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = node._get_node("_target_")._value()
    return locate(target) if isinstance(target, str) else target


def walk(node: DictConfig | ListConfig) -> Iterator[tuple[Any, Any, Any]]:
    """(container, key, child node) of everything in a config, references not followed."""
    if node._is_none() or node._is_interpolation() or node._is_missing():
        return
    for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
        child = node._get_node(key)
        yield node, key, child
        if isinstance(child, DictConfig | ListConfig):
            yield from walk(child)
