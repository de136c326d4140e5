"""Linear layers with an activation between them, over many rows, on a CPU.

A wide hidden layer of thousands of rows does not fit a core's cache, and each of its passes through memory costs about
what the product costs. Here blocks of rows go through all layers, forward and again backward: what is computed twice is
paid for by what stays in the cache, and nothing hidden is kept between the two.

Shape legend: N rows, C channels in, D channels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .common import add_product, as_autocast, in_training_on_cpu

ROWS = 1024
LEAST = 2560  # with fewer, keeping the hidden layers is faster


def many(x: Tensor) -> bool:
    """Whether (..., C) has so many rows, in training on a CPU, that blocks are the better form."""
    return in_training_on_cpu(x) and x.numel() >= LEAST * x.shape[-1]


def fits_mlp(module: nn.Module, x: Tensor) -> bool:
    """As :func:`many`."""
    return many(x)


def mlp(module: nn.Module, x: Tensor) -> Tensor:
    """:class:`~detrex_ext.layers.mlp.MLP`, (..., in_dim) -> (..., out_dim)."""
    return blockwise(x, [(layer.weight, layer.bias) for layer in module.layers])


def fits_ffn(module: nn.Module, x: Tensor) -> bool:
    """As :func:`many`, without dropout, for the activations that :func:`blockwise` knows."""
    dropped = module.training and module.dropout.p > 0.0
    return not dropped and type(module.activation) in (nn.ReLU, nn.PReLU) and many(x)


def ffn(module: nn.Module, x: Tensor) -> Tensor:
    """:class:`~detrex_ext.layers.mlp.FFN`, (..., dim) -> (..., dim)."""
    layers = [(layer.weight, layer.bias) for layer in (module.layers[0][0], module.layers[1])]
    return x + blockwise(x, layers, getattr(module.activation, "weight", None))


def blockwise(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], slope_1: Tensor | None = None) -> Tensor:
    """Linear layers with ReLU, or PReLU, between them and none after the last.

    Args:
        x: (..., C).
        layers: weight and bias of each.
        slope_1: of PReLU, shared by all channels; None = ReLU.

    Returns:
        (..., D).
    """
    given = [x, slope_1, *(t for layer in layers for t in layer)]
    return _Blockwise.apply(*as_autocast(given))


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor | None, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope, *parameters)
        rows_NC = x.flatten(0, -2)
        out_ND = rows_NC.new_empty(len(rows_NC), len(parameters[-1]))
        with torch.autocast("cpu", enabled=False):
            for block, out in zip(rows_NC.split(ROWS), out_ND.split(ROWS), strict=True):
                last = _hidden(block, slope, parameters)[-1][1]
                torch.addmm(parameters[-1], last, parameters[-2].t(), out=out)
        return out_ND.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, *parameters = ctx.saved_tensors
        rows_NC, grad_ND = x.flatten(0, -2), grad.flatten(0, -2)
        wider = torch.promote_types(x.dtype, torch.float32)  # blocks are summed
        sums = [torch.zeros_like(p, dtype=wider) for p in parameters]
        grad_slope = None if slope is None else torch.zeros_like(slope, dtype=wider)
        grad_NC = torch.empty_like(rows_NC) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows_NC), ROWS):
            block, g = rows_NC[start : start + ROWS], grad_ND[start : start + ROWS]
            hidden = _hidden(block, slope, parameters)
            for i in reversed(range(len(hidden))):
                before, after = hidden[i]
                add_product(sums[2 * i], g, after)
                sums[2 * i + 1] += g.sum(0, dtype=wider)
                if i:
                    g = g @ parameters[2 * i]
                    if slope is None:
                        g = torch.ops.aten.threshold_backward(g, after, 0)
                    else:
                        g, of_slope = torch.ops.aten._prelu_kernel_backward(g, before, slope)
                        grad_slope += of_slope.sum(dtype=wider)
            if grad_NC is not None:
                torch.mm(g, parameters[0], out=grad_NC[start : start + ROWS])
        sums = [s.to(p.dtype) for s, p in zip(sums, parameters, strict=True)]
        return (
            None if grad_NC is None else grad_NC.view(x.shape),
            None if slope is None else grad_slope.to(slope.dtype),
            *sums,
        )


def _hidden(block: Tensor, slope: Tensor | None, parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What enters each layer: before its activation and after."""
    found = [(block, block)]
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        before = F.linear(found[-1][1], weight, bias)
        found.append((before, before.relu_() if slope is None else F.prelu(before, slope)))
    return found
