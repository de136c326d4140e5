"""LazyConfig: configs that are Python files, with detectron2's semantics.

Two differences in how it is done: relative imports inside a config file are taken over through the builtins of that
file's own namespace, so nothing global is ever patched, and YAML is read without running code.
"""

from __future__ import annotations

import builtins
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from types import ModuleType, NoneType
from typing import Any

import cloudpickle
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.runtime import LazyConfigBase
from detrex_ext.runtime.standalone.calls import locate

from .files import PACKAGE, why_unreadable
from .overrides import apply_overrides
from .python_text import to_py
from .upgrade import upgrade
from .yaml_text import check_targets, read_yaml, to_yaml

_log = logging.getLogger(__name__)
_loading: list[str] = []


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


class LazyConfig(LazyConfigBase):
    """Reading, writing and overriding of configs; detectron2's type where that is installed."""

    @staticmethod
    def load(filename: str, keys: None | str | Sequence[str] = None) -> Any:
        """Read a `.py` or `.yaml` config.

        Args:
            filename: path.
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
                found = LazyConfig.loads(file.read())
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
        return upgrade(DictConfig(nodes, flags={"allow_objects": True}))

    @staticmethod
    def loads(text: str, named: Callable[[str], Any] = locate) -> Any:
        """A config from YAML text, as `dumps` and `save` write it; no code is run but that of modules it names.

        Args:
            text: YAML.
            named: as for `yaml_loader`.

        Raises:
            yaml.YAMLError: no YAML, or values that only running code could make.
        """
        found = read_yaml(text, named)
        if not isinstance(found, dict | list | NoneType):
            raise yaml.YAMLError(f"expected a mapping, found {type(found).__name__}")
        try:
            return upgrade(OmegaConf.create(found, flags={"allow_objects": True}))
        except OmegaConfBaseException as error:
            raise yaml.YAMLError(_first_line(error)) from error

    @staticmethod
    def dumps(cfg: Any) -> str:
        """A config as YAML text: targets by name, references kept.

        Raises:
            Exception: a value that YAML cannot hold.
        """
        return to_yaml(cfg)

    to_py = staticmethod(to_py)

    @staticmethod
    def load_rel(filename: str, keys: None | str | Sequence[str] = None) -> Any:
        """As `load`, with a path relative to the source file of the caller."""
        caller = inspect.stack()[1].frame.f_code.co_filename
        if caller == "<string>":
            raise AssertionError("load_rel needs a caller that lives in a file")
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> str:
        """Write YAML; where it cannot be read again, say so and write `filename.pkl` (cloudpickle) beside it.

        Returns:
            The text; "" where there is none.
        """
        text = None
        try:
            text = LazyConfig.dumps(cfg)
            with open(f"{filename}.tmp", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(f"{filename}.tmp", filename)
            check_targets(text)
        except OSError:
            raise  # of the disk, not of the config
        except Exception as error:
            reason = _first_line(error)
            state = f"cannot be written ({reason})" if text is None else why_unreadable(text, reason)
            _log.warning(f"config {filename} {state}; saved as {filename}.pkl too")
            try:
                with open(filename + ".pkl", "wb") as file:
                    cloudpickle.dump(cfg, file)
            except Exception as second:
                _log.warning(f"config could not be saved as {filename}.pkl either: {second}")
        return text or ""

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Apply `key=value` overrides in place; strict, see `detrex_ext.config.overrides`."""
        return apply_overrides(cfg, overrides)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
