"""A finder that serves the standalone runtime under detectron2's names, for detectron2's own test files.

Two ways. Alone: nothing of detectron2 is there; what the runtime does not have is a class that refuses to be used, so
that a file which names it can still be imported. Over: the rest of detectron2 comes from a checkout, with our objects
in place of those that the runtime has, so that its other code runs on them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from served import WHOLE, served

ROOT, COMPILED = "detectron2", "detectron2._C"


class NotServedError(Exception):
    """Something that the standalone runtime does not have was used."""


class _Refusing(type):
    """Of classes that may be imported and named, and nothing else."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotServedError(f"{cls.__module__}.{cls.__qualname__}")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{cls.__module__}.{cls.__qualname__}", name)


def _absent(module: str, name: str) -> type:
    return _Refusing(name, (), {"__module__": module})


class _Alone(ModuleType):
    """A module of detectron2 with our names, and refusing ones for all others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        inside = [own for module, own in self.names.items() if f"{module}.".startswith(f"{self.__name__}.")]
        found = next((own[name] for own in inside if name in own), None)
        if found is None and any(f"{module}.".startswith(f"{full}.") for module in (*self.names, *WHOLE)):
            found = importlib.import_module(full)
        setattr(self, name, _absent(self.__name__, name) if found is None else found)
        return vars(self)[name]


class _AloneLoader(Loader):
    def __init__(self, names: dict[str, dict[str, Any]]) -> None:
        self.names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Alone(spec.name)
        module.__dict__["names"] = self.names
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Names are looked up when they are asked for."""


class _OverLoader(Loader):
    """Runs detectron2's file, then puts our names over its own."""

    def __init__(self, theirs: Loader, own: dict[str, Any]) -> None:
        self.theirs, self.own = theirs, own

    def exec_module(self, module: ModuleType) -> None:
        self.theirs.exec_module(module)
        vars(module).update(self.own)


class _WholeLoader(Loader):
    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # importing it under a second name set another


def _is_module(fullname: str) -> bool:
    """Whether a stand-in answers: not to names of classes, nor of projects, of which tests ask if they are there."""
    return fullname == COMPILED or (fullname.rpartition(".")[2].islower() and ".projects" not in fullname)


class Finder(MetaPathFinder):
    """Finds `detectron2` and what is below it.

    Args:
        checkout: folder that holds detectron2's package, for what we do not have; None: alone.
    """

    def __init__(self, checkout: Path | None) -> None:
        self.checkout, self.names = checkout, served()
        self.whole = {name: importlib.import_module(place) for name, place in WHOLE.items()}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != ROOT:
            return None
        if fullname in self.whole:
            return ModuleSpec(fullname, _WholeLoader(self.whole[fullname]))
        if self.checkout is None or fullname == COMPILED:
            return ModuleSpec(fullname, _AloneLoader(self.names), is_package=True) if _is_module(fullname) else None
        spec = PathFinder.find_spec(fullname, [str(self.checkout)] if fullname == ROOT else path)
        if spec is not None and fullname in self.names and fullname != "detectron2.utils.testing":
            spec.loader = _OverLoader(spec.loader, self.names[fullname])
        return spec


def _resources() -> ModuleType:
    """The one function that detectron2's list of models takes from pkg_resources, which setuptools no longer has."""
    module = ModuleType("pkg_resources")
    module.resource_filename = lambda package, path: str(Path(importlib.import_module(package).__file__).parent / path)
    return module


def install(checkout: Path | None = None) -> Finder:
    """Serve detectron2's names from now on in this process.

    Raises:
        RuntimeError: detectron2 itself can be imported.
    """
    if importlib.util.find_spec(ROOT) is not None:
        raise RuntimeError("detectron2 can be imported here: its own names stay its own")
    os.environ["DETREX_EXT_RUNTIME"] = "standalone"
    finder = Finder(checkout)
    sys.meta_path.insert(0, finder)
    if importlib.util.find_spec("pkg_resources") is None:
        sys.modules["pkg_resources"] = _resources()
    # our lines have loggers of our own names; who listens to detectron2's hears them too
    logging.getLogger("detrex_ext.engine.writers").parent = logging.getLogger("detectron2.utils.events")
    return finder
