"""Calls that are made later: a config node per call, and `instantiate`."""

from __future__ import annotations

import dataclasses
import logging
import pydoc
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

_log = logging.getLogger(__name__)


class LazyCall:
    """`LazyCall(target)(**kwargs)` describes the call `target(**kwargs)` as a config node, made by `instantiate`."""

    def __init__(self, target: Callable | str | Mapping) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"the target of LazyCall must be callable, a name or a config, found {target!r}")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        """The node: the arguments, and the target under `_target_`. Nothing is called."""
        target = self._target
        if dataclasses.is_dataclass(target):
            target = to_name(target)
        return DictConfig(content={**kwargs, "_target_": target}, flags={"allow_objects": True})


def locate(name: str) -> Any:
    """The object with the dotted name.

    Raises:
        ImportError: there is none.
    """
    found = pydoc.locate(name)
    if found is None:
        from hydra.utils import _locate

        found = _locate(name)
    return found


def to_name(target: Any) -> str:
    """The dotted name of a class or function, by the shortest package prefix that has it."""
    module, qualname = target.__module__, target.__qualname__
    parts = (module or "").split(".")
    for count in range(1, len(parts)):
        name = ".".join([*parts[:count], qualname])
        try:
            if locate(name) is target:
                return name
        except ImportError:
            continue
    return f"{module}.{qualname}"


def instantiate(cfg: Any) -> Any:
    """Make the calls a config describes, innermost first.

    A mapping with `_target_` becomes the result of the call; a list has its items made; a config of a dataclass
    becomes the dataclass; everything else, a plain dict too, is returned as it is.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg
    kwargs = {key: instantiate(value) for key, value in cfg.items()}
    target = instantiate(kwargs.pop("_target_"))
    name = target
    if isinstance(target, str):
        target = locate(target)
    else:
        name = getattr(target, "__qualname__", repr(target))
    if not callable(target):
        raise AssertionError(f"_target_ {name} is not callable")
    try:
        return target(**kwargs)
    except TypeError:
        _log.error(f"the call of {name} failed; its arguments were {sorted(kwargs)}")
        raise
