"""The types in which autocast wants the products of our own autograd functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def as_autocast(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors in the type of the autocast that is on for the first one's device; as they are where none is."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    return [None if t is None else t.to(torch.get_autocast_dtype(kind)) for t in tensors]
