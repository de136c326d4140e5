"""LazyConfig: configs that are Python files, and calls that are made later; detectron2's semantics.

Two differences in how it is done: relative imports inside a config file are taken over through the builtins of that
file's own namespace, so nothing global is ever patched, and YAML is read without running code.
"""

from __future__ import annotations

import builtins
import copy
import dataclasses
import inspect
import logging
import os
import pydoc
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import cloudpickle
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode
from omegaconf._utils import get_yaml_loader

PACKAGE = "detrex_ext._cfg_loader"
"""`__package__` of every config file that is being run; how frames of config files are told from others."""

_log = logging.getLogger(__name__)
_loading: list[str] = []


class LazyCall:
    """`LazyCall(target)(**kwargs)` describes the call `target(**kwargs)` as a config node, made by `instantiate`."""

    def __init__(self, target: Callable | str | Mapping) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"the target of LazyCall must be callable, a name or a config, found {target!r}")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
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


def _to_config(value: Any) -> Any:
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def _relative_path(name: str, level: int, importer: str) -> str:
    folder = os.path.dirname(importer)
    for _ in range(level - 1):
        folder = os.path.dirname(folder)
    base = os.path.join(folder, *name.split("."))
    if not name or os.path.isdir(base):
        raise ImportError(f"relative import of a folder ({base}) in {importer}: name the file, from .file import name")
    path = base + ".py"
    if not os.path.isfile(path):
        raise ImportError(f"relative import in {importer}: {path} does not exist")
    return path


def run_file(filename: str) -> dict[str, Any]:
    """Run a config file and return its namespace. Every call runs it anew, as does every relative import."""
    filename = os.path.abspath(filename)
    if filename in _loading:
        raise ImportError(f"config files import each other in a circle: {' -> '.join([*_loading, filename])}")

    def importer(name: str, namespace: Any = None, local: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return builtins.__import__(name, namespace, local, fromlist, level)
        path = _relative_path(name, level, filename)
        module = ModuleType(f"{PACKAGE}.{os.path.basename(path)[:-3]}")
        module.__file__ = path
        public = {k: _to_config(v) for k, v in run_file(path).items() if not k.startswith("__")}
        module.__dict__.update(public)
        return module

    with open(filename, encoding="utf-8") as file:
        code = compile(file.read(), filename, "exec", dont_inherit=True)
    stem = os.path.splitext(os.path.basename(filename))[0]
    # functions defined in the file take __name__ as their module, which keeps a dumped config readable
    namespace = {
        "__file__": filename,
        "__name__": f"{PACKAGE}.{stem}",
        "__package__": PACKAGE,
        "__builtins__": {**vars(builtins), "__import__": importer},
    }
    _loading.append(filename)
    try:
        exec(code, namespace)
    finally:
        _loading.pop()
    return {name: value for name, value in namespace.items() if name != "__builtins__"}


def _yaml_loader() -> type:
    """omegaconf's safe loader, which also reads tuples and the names of functions (importing, never calling)."""

    class Loader(get_yaml_loader()):
        pass

    tag = "tag:yaml.org,2002:python/"
    Loader.add_constructor(f"{tag}tuple", lambda self, node: tuple(self.construct_sequence(node, deep=True)))
    Loader.add_multi_constructor(f"{tag}name:", lambda self, suffix, node: locate(suffix))
    return Loader


class LazyConfig:
    """Reading, writing and overriding of configs."""

    @staticmethod
    def load(filename: str, keys: None | str | Sequence[str] = None) -> Any:
        """Read a `.py` or `.yaml` config.

        Args:
            keys: None for all dicts and config nodes of the file as one DictConfig; a name or several names for
                just these values.

        Raises:
            ValueError: another extension. KeyError: a name the file does not have.
        """
        filename = str(filename).replace("/./", "/")
        extension = os.path.splitext(filename)[1]
        if extension == ".py":
            found = run_file(filename)
        elif extension in (".yaml", ".yml"):
            with open(filename, encoding="utf-8") as file:
                found = OmegaConf.create(yaml.load(file, Loader=_yaml_loader()), flags={"allow_objects": True})
        else:
            raise ValueError(f"config {filename} must end with .py, .yaml or .yml")
        if isinstance(keys, str):
            return _to_config(found[keys])
        if keys is not None:
            return tuple(_to_config(found[key]) for key in keys)
        if extension != ".py":
            return found
        nodes = {
            name: value
            for name, value in found.items()
            if isinstance(value, DictConfig | ListConfig | dict) and not name.startswith("_")
        }
        return DictConfig(nodes, flags={"allow_objects": True})

    @staticmethod
    def load_rel(filename: str, keys: None | str | Sequence[str] = None) -> Any:
        """As `load`, with a path relative to the source file of the caller."""
        caller = inspect.stack()[1].frame.f_code.co_filename
        if caller == "<string>":
            raise AssertionError("load_rel needs a caller that lives in a file")
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write YAML; where it cannot be read again, say so and write `filename.pkl` (cloudpickle) beside it."""
        text = None
        try:
            text = to_yaml(cfg)
            with open(f"{filename}.tmp", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(f"{filename}.tmp", filename)
            _check_targets(yaml.load(text, Loader=_yaml_loader()))
        except Exception as error:
            state = "cannot be written" if text is None else "is for reading only"
            _log.warning(f"config {filename} {state} ({_first_line(error)}); saved as {filename}.pkl too")
            try:
                with open(filename + ".pkl", "wb") as file:
                    cloudpickle.dump(cfg, file)
            except Exception as second:
                _log.warning(f"config could not be saved as {filename}.pkl either: {second}")

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Apply `key=value` overrides in place; strict, see `detrex_ext.runtime.overrides`."""
        from detrex_ext.runtime.overrides import apply_overrides

        return apply_overrides(cfg, overrides)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def to_yaml(cfg: Any) -> str:
    """The config as YAML: targets by name, interpolations kept."""
    cfg = copy.deepcopy(cfg)
    _name_targets(cfg)
    plain = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    return yaml.dump(plain, default_flow_style=None, allow_unicode=True, width=9999)


def _check_targets(node: Any) -> None:
    """Raise ImportError for a target that cannot be found by its name, such as a function of a config file."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            locate(node["_target_"])
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        _check_targets(child)


def _name_targets(node: Any) -> None:
    if isinstance(node, DictConfig) and not node._is_interpolation() and not node._is_none():
        target = node._get_node("_target_")
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
