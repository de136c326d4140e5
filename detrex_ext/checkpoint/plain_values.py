"""What is left of a pickle in the end: plain values, arrays and tensors."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .stand_ins import Array, Dtype, Node, NotRead, Refused

_DEEPEST, _MOST = 100, 10_000_000
_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(torch.dtype, torch.device, torch.Size, np.generic),
)


def plain(value: Any, tensor: Callable[[torch.Tensor, str], Any]) -> Any:
    """What was read, of which every stand-in became what it stands for; containers are changed in place.

    Args:
        value: the outermost.
        tensor: called with every tensor and its path, such as ``model.w``.

    Raises:
        Refused: a value that is no plain one, one inside of itself, one too deep, or values that stand for too many.
    """
    done: dict[int, Any] = {}
    count = 0

    def walk(one: Any, path: str, depth: int) -> Any:
        nonlocal count
        kind, count = type(one), count + 1
        if kind in _LEAVES or isinstance(one, np.generic | NotRead):
            return one
        if isinstance(one, torch.Tensor):
            tensor(one, path)
            return one
        if depth > _DEEPEST:
            raise Refused(f"values more than {_DEEPEST} levels deep, or one inside of itself")
        if id(one) in done:
            count += done[id(one)][2]
        else:
            before, inside = count, f"{path}." if path else ""
            made = _made(one, kind, lambda child, key: walk(child, f"{inside}{key}"[-300:], depth + 1))
            done[id(one)] = one, made, count - before  # all are kept, so that no other object gets an id of before
        if count > _MOST:
            raise Refused(f"lists in lists that stand for more than {_MOST:,} values")
        return done[id(one)][1]

    return walk(value, "", 0)


def _made(one: Any, kind: type, walk: Callable[[Any, Any], Any]) -> Any:
    if kind is Array and one.value is not None:
        return one.value
    if kind is Dtype:
        return one.value
    if kind is Node:
        return walk(one.content(), "")
    if kind is Namespace:
        for key in vars(one):
            vars(one)[key] = walk(vars(one)[key], key)
        return one
    if kind in (dict, OrderedDict, Counter):
        if not all(_is_key(key) for key in one):
            raise Refused("a dict by keys that are no plain values")
        for key in one:
            one[key] = walk(one[key], key)
        if kind is OrderedDict and hasattr(one, "_metadata"):
            one._metadata = walk(one._metadata, "_metadata")
        return one
    if kind is list:
        one[:] = [walk(child, number) for number, child in enumerate(one)]
        return one
    if kind is tuple:
        return tuple(walk(child, number) for number, child in enumerate(one))
    if kind in (set, frozenset) and all(_is_key(child) for child in one):
        return one
    raise Refused(f"a value of type {kind.__name__}")


def _is_key(value: Any) -> bool:
    return type(value) in _LEAVES or (type(value) is tuple and all(type(child) in _LEAVES for child in value))
