"""What a GPU keeps otherwise than a CPU, for steps on tensors without values: nothing here computes anything.

A GPU's fused attention keeps no map, with dropout or a mask that learns either; its dropout keeps a byte for a value;
under autocast its norms and softmaxes are fp32; kernels of :mod:`detrex_ext.layers.cpu` that are a CPU's are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..layers import cpu
from ..layers.cpu.common import as_autocast

_IN_FP32 = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax}
_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Tensors of the CPU are treated as those of a GPU inside, as far as memory goes."""
    of_a_cpu: dict[str, Any] = dict.fromkeys(("dropout", "MLP", "attention", "AdaptiveMixing"), ())
    of_a_cpu["FFN"] = tuple(k for k in cpu.KERNELS["FFN"] if k.name == "PReLU made again")
    with cpu.switched(True), mock.patch.dict(cpu.KERNELS, of_a_cpu), _AsOnGPU():
        yield


class _AsOnGPU(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is Tensor.backward:
            with self:  # which is off in here: what is computed again in a backward pass is of a GPU too
                return _backward(*args)
        if func in _IN_FP32 and args and args[0].dtype in _HALF:
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _backward(total: Tensor) -> None:
    """Of a scalar, by the engine itself: whatever leads to it in Python asks the mode again."""
    ones = (torch.ones_like(total),)
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward((total,), ones, False, False, (), allow_unreachable=True, accumulate_grad=True)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **kwargs: Any
) -> Tensor:
    return _Fused.apply(*as_autocast((q, k, v, None if attn_mask is None else attn_mask.to(q.dtype))))


class _Fused(torch.autograd.Function):
    """What goes in, what comes out and a number for each query are kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, mask, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors[:4], ctx.needs_input_grad, strict=True)
        return tuple(x.new_empty(x.shape) if x is not None and want else None for x, want in wanted)
