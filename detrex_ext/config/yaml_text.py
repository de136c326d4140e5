"""Configs as YAML text that can be read without running code."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode
from omegaconf._utils import get_yaml_loader

from detrex_ext.runtime.standalone.calls import locate, to_name

_MOST, _DEEPEST, _DIGITS = 100_000, 50, 1000


class NameOnly:
    """The name of a function or class that was read and not imported (no dataclass: omegaconf would open it)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NameOnly) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def yaml_loader(named: Callable[[str], Any] = locate) -> type:
    """The safe loader of omegaconf, which also reads tuples and the names of functions.

    Args:
        named: gives what stands for a name; importing it (never calling) by default.
    """

    class Loader(get_yaml_loader()):
        pass

    tag = "tag:yaml.org,2002:python/"
    Loader.add_constructor(f"{tag}tuple", lambda self, node: tuple(self.construct_sequence(node, deep=True)))
    Loader.add_multi_constructor(f"{tag}name:", lambda self, suffix, node: named(suffix))
    return Loader


def read_yaml(text: str, named: Callable[[str], Any] = locate) -> Any:
    """What a YAML text says, within limits that keep a text of a few lines from filling time and memory.

    Args:
        text: YAML.
        named: as for `yaml_loader`.

    Raises:
        yaml.YAMLError: no YAML, values that cannot be made, or more or deeper than any config is.
    """
    return _within_limits(yaml_loader(named)(text))


def read_texts(text: str) -> Any:
    """As `read_yaml`, each value as the text that stands there: `no` is no False, `01` no 1; tags mean nothing."""
    return _within_limits(yaml.BaseLoader(text))


def _within_limits(loader: Any) -> Any:
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {})
        return loader.construct_document(root)
    except RecursionError as error:
        raise yaml.YAMLError(f"more than {_DEEPEST} levels") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:  # constructors do not look
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(values, levels) of a node with what its aliases stand for."""
    if id(node) not in known:
        known[id(node)] = None
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        sizes = [_measure(one, known) for child in children for one in (child if pairs else (child,))]
        known[id(node)] = 1 + sum(n for n, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    size = known[id(node)]
    if size is None:
        raise yaml.YAMLError("an alias (*) stands inside of what it is for")
    if node.tag.endswith(":int") and len(node.value) > _DIGITS:
        raise yaml.YAMLError(f"a number of {len(node.value):,} digits")
    if size[0] > _MOST or size[1] > _DEEPEST:
        raise yaml.YAMLError(f"more than {_MOST:,} values, or {_DEEPEST} levels, with what its aliases (*) stand for")
    return size


def to_yaml(cfg: Any) -> str:
    """The config as YAML: targets by name, interpolations and the order of keys kept (that of strategies counts)."""
    cfg = copy.deepcopy(cfg)
    _name_targets(cfg)
    plain = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    return yaml.dump(plain, Dumper=_Dumper, default_flow_style=None, allow_unicode=True, width=9999, sort_keys=False)


class _Dumper(yaml.Dumper):
    """Writes a dataclass as the call that makes it, which needs no unsafe YAML to be read."""

    def represent_any(self, data: Any) -> yaml.Node:
        if isinstance(data, NameOnly):
            return self.represent_scalar(f"tag:yaml.org,2002:python/name:{data.name}", "")
        if dataclasses.is_dataclass(data) and not isinstance(data, type):
            fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
            return self.represent_dict({"_target_": to_name(type(data)), **fields})
        return self.represent_object(data)


_Dumper.add_multi_representer(object, _Dumper.represent_any)


def check_targets(text: str) -> None:
    """Whether a config's text can be read again.

    Raises:
        ImportError: a target that cannot be found by its name, such as a function of a config file.
        yaml.YAMLError: values that only running code could make.
    """
    _check(read_yaml(text))


def _check(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            locate(node["_target_"])
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        _check(child)


def _name_targets(node: Any) -> None:
    if isinstance(node, DictConfig) and not node._is_interpolation() and not node._is_none():
        target = node._get_node("_target_") if "_target_" in node.keys() else None
        if target is not None and callable(target._value()):
            node._set_flag("allow_objects", True)
            node["_target_"] = to_name(target._value())
        children = [node._get_node(key) for key in node.keys()]
    elif isinstance(node, ListConfig) and not node._is_interpolation() and not node._is_none():
        children = [node._get_node(index) for index in range(len(node))]
    else:
        return
    for child in children:
        _name_targets(child)
