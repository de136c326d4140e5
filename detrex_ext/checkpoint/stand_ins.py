"""What the names in a pickle stand for: functions of this file, never those that the names are of.

numpy's own would take a shape, a dtype or a state at its word, which can fill memory or point out of it.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[<>=|]?(?:[?biufc]\d{0,2}|[SU]\d{1,6})")


class Refused(Exception):
    """In words, what a file holds that is not read: reading it could run code or fill memory."""


class Damaged(Exception):
    """In words, what of a file is not as it was written."""


class NotRead:
    """A value of a kind that is no weight, such as a sparse tensor; it is told of, and not made.

    Args:
        kind: in words.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"a {self.kind}"


class Inert:
    """The name of a type, where it is a value: it cannot be called."""


class Dtype:
    """A dtype of numbers, truth values or texts."""

    def __init__(self, text: Any = None, align: Any = False, copy: Any = False) -> None:
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise Refused(f"a numpy array of dtype {str(text)[:40]!r}")
        self.value = np.dtype(text)

    def take(self, state: Any) -> None:
        """The byte order; a dtype of parts would have more."""
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or parts != (None, None, None):
            raise Refused("a numpy array of a dtype of several parts")
        self.value = self.value.newbyteorder(order)


class Array:
    """An array on its way: its values come with its state."""

    value: np.ndarray | None = None

    def take(self, state: Any) -> None:
        """Shape, dtype, order and the bytes of the values."""
        _, shape, dtype, fortran, raw = state
        self.value = from_buffer(raw, dtype, shape, "F" if fortran else "C").value


class Node:
    """A config's node of omegaconf: what it holds, without its resolvers."""

    state: dict[str, Any] | None = None

    def take(self, state: Any) -> None:
        """All of its attributes."""
        self.state = state if isinstance(state, dict) else {}

    def content(self) -> Any:
        """A dict, a list, or a plain value."""
        state = self.state or {}
        return state.get("_content", state.get("_val"))


def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    """Values of an array from their bytes, in the byte order of this machine."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")  # bytes of Python 2
    if not isinstance(dtype, Dtype) or not isinstance(raw, bytes | bytearray):
        raise Refused("a numpy array whose values are no bytes")
    shape = whole_numbers(shape)
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise Refused(f"a numpy array of shape {str(shape)[:80]} and {len(raw):,} bytes")
    values = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if order == "F" else "C")
    out = Array()
    out.value = np.array(values, dtype=dtype.value.newbyteorder("="))
    return out


def whole_numbers(values: Any) -> tuple[int, ...]:
    """A shape or the like: few whole numbers that are not negative."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise Refused(f"a shape that is a {type(values).__name__}")
    if not all(type(one) is int and 0 <= one < 2**63 for one in values):
        raise Refused(f"a shape of {str(values)[:80]}")
    return tuple(values)


def _array(*_: Any) -> Array:
    return Array()


def _scalar(dtype: Any, raw: Any = None) -> np.generic:
    return from_buffer(raw, dtype, ()).value[()]


def _encode(text: Any, encoding: Any = None) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode to {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _bytearray(*given: Any) -> bytearray:
    if len(given) == 2:
        return bytearray(_encode(*given))
    if given and not isinstance(given[0], bytes):
        raise Refused("a bytearray of given length")
    return bytearray(*given)


def _default_dict(*_: Any) -> dict:
    return {}


_CORES = [f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")]
_CALLED = {"_reconstruct": _array, "scalar": _scalar, "_frombuffer": from_buffer}
_BUILTIN = {"set": set, "frozenset": frozenset, "complex": complex, "bytearray": _bytearray}
_INERT = ("bool", "int", "float", "str", "bytes", "tuple", "list", "dict", "object", "long", "unicode")
KNOWN: dict[tuple[str, str], Any] = {
    **{(module, name): call for module in _CORES for name, call in _CALLED.items()},
    **{(module, name): call for module in ("builtins", "__builtin__") for name, call in _BUILTIN.items()},
    **{(module, name): Inert() for module in ("builtins", "__builtin__") for name in _INERT},
    ("typing", "Any"): Inert(),
    ("numpy", "ndarray"): Inert(),
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("collections", "defaultdict"): _default_dict,
    ("argparse", "Namespace"): Namespace,
    **{(f"omegaconf.{kind.lower()}", kind): Node for kind in ("DictConfig", "ListConfig")},
    **{("omegaconf.base", kind): Node for kind in ("ContainerMetadata", "Metadata")},
    **{("omegaconf.nodes", f"{kind}Node"): Node for kind in ("Any", "String", "Integer", "Float", "Boolean")},
}
"""(module, name) -> what is taken for it."""


def put_state(value: Any, state: Any) -> None:
    """The state that a pickle gives an object, as far as the object takes one."""
    kind = type(value)
    if kind in (Dtype, Array, Node):
        value.take(state)
    elif kind is Namespace and isinstance(state, dict):
        vars(value).update(state)
    elif kind is OrderedDict and isinstance(state, dict):  # of a state dict: versions of its modules
        value._metadata = state.get("_metadata")
    elif kind is not Counter:
        raise Refused(f"a state for a {kind.__name__}")
