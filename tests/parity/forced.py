"""What is forced upon another project, types that it names and a device, and how its choices are watched.

Without ``in_double`` a peer runs in single precision as it is. Nothing here changes what a function of a peer does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor


@contextmanager
def double_by_default() -> Iterator[None]:
    """What names no type is double, random numbers too; for ours beside a peer ``in_double``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def in_double() -> Iterator[None]:
    """``torch.float32`` and ``Tensor.float`` mean double, and so does what names no type.

    Position codes, valid ratios, cell centers and the boxes of objects are of single precision in all these projects,
    whatever the model is.
    """
    named = mock.patch.object(torch, "float32", torch.float64), mock.patch.object(Tensor, "float", Tensor.double)
    with double_by_default(), named[0], named[1]:
        yield


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """``in_double`` for double; nothing is touched for single precision."""
    if dtype == torch.float64:
        with in_double():
            yield
    else:
        yield


@contextmanager
def cuda_is_the_cpu() -> Iterator[None]:
    """Tensors that are sent to CUDA stay where they are."""
    to = Tensor.to

    def moved(self: Tensor, *args: Any, **named: Any) -> Tensor:
        return self if args == ("cuda",) else to(self, *args, **named)

    with mock.patch.object(Tensor, "cuda", lambda self: self), mock.patch.object(Tensor, "to", moved):
        yield


@contextmanager
def watched_choice(number: int) -> Iterator[list[Tensor]]:
    """The indices of each choice of the best ``number``, as a two-stage model makes one of its proposals."""
    seen, topk = [], torch.topk

    def watch(x: Tensor, k: int, *given: Any, **named: Any) -> Any:
        found = topk(x, k, *given, **named)
        if k == number:
            seen.append(found.indices)
        return found

    with mock.patch.object(torch, "topk", watch):
        yield seen


def choose(source: Any, chosen_BQ: Tensor | None) -> list[Tensor]:
    """Makes our two-stage source take a peer's proposals, if any; what it would have taken itself is in the list.

    Proposals whose scores tie in single precision may swap their ranks, and with them the learned content they get.
    """
    own: list[Tensor] = []

    def select(scores_BS: Tensor, more: int = 0) -> Tensor:
        own.append(type(source).select(source, scores_BS, more))
        return chosen_BQ

    if chosen_BQ is not None:
        source.select = select
    return own


def same_choice(own: Tensor, chosen_BQ: Tensor) -> float:
    """The share of proposals that both chose, whatever their ranks."""
    pairs = zip(own.tolist(), chosen_BQ.tolist(), strict=True)
    return min(len(set(a) & set(b)) / len(b) for a, b in pairs)
