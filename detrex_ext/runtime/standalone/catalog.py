"""Named data sets and what is known about them, with detectron2's names."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _DatasetCatalog(UserDict):
    """Name -> function that reads the data set as a list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        if not callable(func):
            raise AssertionError("a data set is registered with a function without arguments")
        if name in self:
            raise AssertionError(f"a data set '{name}' is registered already")
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Read the data set.

        Raises:
            KeyError: no such data set; lists those there are.
        """
        try:
            func = self[name]
        except KeyError:
            raise KeyError(f"data set '{name}' is not registered; there are: {', '.join(self) or 'none'}") from None
        return func()

    def list(self) -> list[str]:
        return list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)


class Metadata(SimpleNamespace):
    """Attributes of a data set. An attribute may be set again only to an equal value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        known = ", ".join(self.__dict__) or "nothing"
        raise AttributeError(f"'{key}' is not in the metadata of data set '{self.name}'; there is: {known}")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__ and self.__dict__[key] != value:
            raise AssertionError(f"'{key}' of data set '{self.name}' is {self.__dict__[key]} and cannot become {value}")
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """The attributes as a new dict."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        """Set attributes and return itself; a changed value is an AssertionError."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or `default` where it was not set."""
        return self.__dict__.get(key, default)


class _MetadataCatalog(UserDict):
    """Name -> Metadata, created on first use."""

    def get(self, name: str) -> Metadata:
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        return list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
