"""What the host knows, where the tensors are, without waiting for a GPU.

``torch.tensor(values, device=...)``, ``x.new_tensor(values)`` and ``x.to(device)`` copy only when the GPU has done all
it was told to do, and nothing new is prepared for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def placed(values: float | Sequence[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers, in rows of any shape, as a tensor on the device of another and, without ``dtype``, of its type."""
    return moved(torch.tensor(values, dtype=like.dtype if dtype is None else dtype), like.device)


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` (any shape) on a device. A copy to the host is waited for: read before it is done, it would be garbage."""
    if _constants is not None and x.device.type == "cpu" != torch.device(device).type:
        return _constants.of(x, device)
    return x.to(device, non_blocking=x.device.type == "cpu")


class Constants:
    """What the host sends in a pass: a later one over inputs of the same sizes sends the same, and need not send it.

    While a CUDA graph is recorded nothing can be sent: the copy would read memory of the host that is long reused when
    the graph runs.
    """

    def __init__(self) -> None:
        self._sent: list[Tensor] = []
        self._next: int | None = None  # None: they are being sent

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, what is sent is kept."""
        yield from self._during(None)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, nothing is sent: each call of :func:`moved` gets what the same call was given before."""
        yield from self._during(0)

    def _during(self, first: int | None) -> Iterator[None]:
        global _constants
        before, _constants, self._next = _constants, self, first
        try:
            yield
        finally:
            _constants = before

    def of(self, x: Tensor, device: torch.device | str) -> Tensor:
        """``x`` on the device.

        Raises:
            RuntimeError: the pass that was kept sent something else at this place.
        """
        if self._next is None:
            self._sent.append(x.to(device))
            return self._sent[-1]
        if self._next == len(self._sent):
            raise RuntimeError("a pass over the same sizes sends more to the device than the one before")
        kept = self._sent[self._next]
        if (kept.shape, kept.dtype) != (x.shape, x.dtype):
            raise RuntimeError(f"a pass over the same sizes sends {tuple(x.shape)} where it sent {tuple(kept.shape)}")
        self._next += 1
        return kept


_constants: Constants | None = None
