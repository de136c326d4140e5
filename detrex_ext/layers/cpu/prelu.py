"""A feed-forward block with PReLU that keeps its wide hidden layer once: the activation is computed again, not kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .common import as_autocast, eager


def fits(module: nn.Module, x: Tensor) -> bool:
    """PReLU without dropout, where gradients are wanted; on any device, for it is memory that is saved."""
    dropped = module.training and module.dropout.p > 0.0
    return type(module.activation) is nn.PReLU and not dropped and torch.is_grad_enabled() and eager()


def ffn(module: nn.Module, x: Tensor) -> Tensor:
    """:class:`~detrex_ext.layers.mlp.FFN`, (..., dim) -> (..., dim)."""
    last = module.layers[1]
    return x + prelu_linear(module.layers[0][0](x), module.activation.weight, last.weight, last.bias)


def prelu_linear(x: Tensor, slope_1: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``linear(prelu(x))`` that keeps only ``x`` for the backward pass.

    Shapes: (..., in), (1,), (out, in), (out,) -> (..., out).
    """
    return _PReLULinear.apply(*as_autocast((x, slope_1, weight, bias)))


class _PReLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope, weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.prelu(x, slope), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, slope, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_weight = rows.t() @ F.prelu(x, slope).flatten(0, -2)
        grad_x, grad_slope = torch.ops.aten._prelu_kernel_backward(grad @ weight, x, slope)
        return grad_x, grad_slope.sum().view(1), grad_weight, rows.sum(0)
