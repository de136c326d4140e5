"""What the kernels share: where a backward pass of our own may follow, and the types that autocast wants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]  # (height, width) of each level
# older torch does not tell the two apart
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def exporting() -> bool:
    """Whether a graph is traced or exported, so that it must be made of operators that are known elsewhere."""
    return torch.jit.is_tracing() or _exporting()


def eager() -> bool:
    """Whether operators run one by one: a graph that is compiled, traced or exported is made of torch's own."""
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def in_training_on_cpu(x: Tensor) -> bool:
    """Whether a backward pass of our own may follow."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and eager()


def as_autocast(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors in the type of the autocast that is on for the first one's device; as they are where none is."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    return [None if t is None else t.to(torch.get_autocast_dtype(kind)) for t in tensors]


def add_product(total_DC: Tensor, a_ND: Tensor, b_NC: Tensor) -> None:
    """Adds a^T b, (D, C), to the sum over blocks of rows, which may be of a wider type than they are."""
    if total_DC.dtype == a_ND.dtype:
        total_DC.addmm_(a_ND.t(), b_NC)
    else:
        total_DC += a_ND.t() @ b_NC
