"""Multi-layer perceptron and feed-forward block, with detrex's parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .autocast import as_autocast
from .blockwise import blockwise, pays
from .dropout import Dropout, dropout, relu_dropout


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU between them and none after the last. Keys: ``layers.{i}``.

    Shapes: (..., in_dim) -> (..., out_dim).
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims, dims[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        if pays(x):
            return blockwise(x, [(layer.weight, layer.bias) for layer in self.layers])
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class FFN(nn.Module):
    """Feed-forward block with its residual. Keys: ``layers.0.0`` and ``layers.1``.

    Shapes: (..., dim) -> (..., dim).
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.activation = activation or nn.ReLU()
        self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(dim, hidden_dim)]), nn.Linear(hidden_dim, dim)])
        self.dropout = Dropout(dropout, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        first, last, dropped = self.layers[0][0], self.layers[1], self.training and self.dropout.p > 0.0
        if not dropped and type(self.activation) in (nn.ReLU, nn.PReLU) and pays(x):
            layers = [(first.weight, first.bias), (last.weight, last.bias)]
            return x + blockwise(x, layers, getattr(self.activation, "weight", None))
        hidden = first(x)
        if type(self.activation) is nn.PReLU and not dropped:
            return x + prelu_linear(hidden, self.activation.weight, last.weight, last.bias)
        if type(self.activation) is nn.ReLU:
            hidden = relu_dropout(hidden, self.dropout.p, self.training)
        else:
            hidden = dropout(self.activation(hidden), self.dropout.p, self.training)
        return x + self.dropout(last(hidden))


def prelu_linear(x: Tensor, slope_1: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``linear(prelu(x))`` that keeps only ``x`` for the backward pass: PReLU is computed again, not kept.

    Shapes: (..., in), (1,), (out, in), (out,) -> (..., out).
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.linear(F.prelu(x, slope_1), weight, bias)
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
