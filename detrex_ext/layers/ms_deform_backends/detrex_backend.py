"""detrex's compiled CUDA operator, for those who have it."""

from __future__ import annotations

import torch
from torch import Tensor

from detrex_ext.runtime import peers
from detrex_ext.structures.placing import placed

from . import Shapes

_op = peers.detrex_msda_op()
if _op is None:
    raise ImportError("detrex with its compiled operators (detrex._C) is not installed")


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`.

    Raises:
        RuntimeError: off CUDA.
    """
    if value_BSHD.device.type != "cuda":
        raise RuntimeError("detrex's operator runs on CUDA only; choose another backend of ms_deform_attn")
    hw_L2 = placed(list(shapes), value_BSHD, torch.int64)
    size_L = hw_L2.prod(1)
    value = value_BSHD.to(at_BTHLK2.dtype).contiguous()
    # the operator cuts the batch into steps that must divide it: one step is always right
    return _op(value, hw_L2, size_L.cumsum(0) - size_L, at_BTHLK2.contiguous(), weight_BTHLK.contiguous(), len(value))
