"""What the host knows, where the tensors are, without waiting for a GPU.

``torch.tensor(values, device=...)``, ``x.new_tensor(values)`` and ``x.to(device)`` copy only when the GPU has done all
it was told to do, and nothing new is prepared for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def placed(values: float | Sequence[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers, in rows of any shape, as a tensor on the device of another and, without ``dtype``, of its type."""
    return moved(torch.tensor(values, dtype=like.dtype if dtype is None else dtype), like.device)


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` (any shape) on a device. A copy to the host is waited for: read before it is done, it would be garbage."""
    return x.to(device, non_blocking=x.device.type == "cpu")
