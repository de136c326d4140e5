"""detrex's DINO on a CPU: its denoising names CUDA outright, and draws the noise of labels in fp32 always."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .peer import Peer

_FLOAT32, _FLOAT = torch.float32, Tensor.float


class DinoPeer(Peer):
    """detrex's DINO with its intermediate results."""

    def __init__(self, variant: str, state: dict[str, Tensor], dtype: torch.dtype = torch.float32, **changes: Any):
        super().__init__(variant, state, dtype, **changes)
        prepare = self.model.prepare_for_cdn

        def noised(*given: Any, **named: Any) -> Any:
            with _named_types(dtype):
                return prepare(*given, **named)

        self.model.prepare_for_cdn = noised

    def __call__(self, items: list[dict[str, Any]], chosen_BQ: Tensor | None = None) -> Any:
        with _cuda_is_the_cpu():
            return super().__call__(items, chosen_BQ)


@contextmanager
def _named_types(default: torch.dtype) -> Iterator[None]:
    """Types that are named mean what they say; unnamed ones are the model's."""
    patched = torch.float32, Tensor.float
    torch.float32, Tensor.float = _FLOAT32, _FLOAT
    torch.set_default_dtype(default)
    try:
        yield
    finally:
        torch.set_default_dtype(_FLOAT32)
        torch.float32, Tensor.float = patched


@contextmanager
def _cuda_is_the_cpu() -> Iterator[None]:
    originals = Tensor.cuda, Tensor.to
    Tensor.cuda = lambda self: self
    Tensor.to = lambda self, *a, **k: self if a == ("cuda",) else originals[1](self, *a, **k)
    try:
        yield
    finally:
        Tensor.cuda, Tensor.to = originals
