"""Adaptive mixing of many queries on a CPU, a block of them at a time.

Shape legend: B images, T queries, G groups, P points in, C channels of a group, D = G C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .common import add_product, as_autocast, in_training_on_cpu

ROWS = 200  # queries of a block: from 32 MiB on, memory of a tensor is mapped, and cleared, anew each time
LEAST = 2 * ROWS  # with fewer, keeping what was computed is faster

Mix = Callable[[Tensor, Tensor], Tensor]


def fits(module: nn.Module, x_BTGPC: Tensor, query_BTD: Tensor) -> bool:
    """In training on a CPU, with so many queries in all images that blocks are the better form."""
    return in_training_on_cpu(query_BTD) and query_BTD[..., 0].numel() >= LEAST


def mixing(module: nn.Module, x_BTGPC: Tensor, query_BTD: Tensor) -> Tensor:
    """:class:`~detrex_ext.layers.adaptive_mixing.AdaptiveMixing`, (B, T, D)."""
    made, out = module.parameter_generator, module.out_proj
    given = (x_BTGPC, query_BTD, made.weight, made.bias, out.weight, out.bias)
    return _Blockwise.apply(module.mix, *as_autocast(given))


class _Blockwise(torch.autograd.Function):
    """All of the mixing, a block of queries at a time, on a CPU.

    A query's matrices and mixed features are 300 KB; those of some hundred queries are moved through memory a dozen
    times. A block stays in the cache, and it is cheaper to make it again for the backward pass than to keep it.
    """

    @staticmethod
    def forward(ctx: Any, mix: Mix, x: Tensor, query: Tensor, *parameters: Tensor) -> Tensor:
        ctx.mix = mix
        ctx.save_for_backward(x, query, *parameters)
        weight, bias, out_weight, out_bias = parameters
        found = query.new_empty(query.shape)
        rows = (t.flatten(0, 1).split(ROWS) for t in (x, query, found))
        with torch.autocast("cpu", enabled=False):
            for points, content, out in zip(*rows, strict=True):
                mixed = mix(points, F.linear(content, weight, bias)).flatten(1)
                torch.addmm(out_bias, mixed, out_weight.t(), out=out)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, query, *parameters = ctx.saved_tensors
        weight, bias, out_weight, _ = parameters
        wider = torch.promote_types(x.dtype, torch.float32)  # blocks are summed
        sums = [torch.zeros_like(p, dtype=wider) for p in parameters]
        found = [t.new_empty(t.shape) for t in (x, query)]
        rows = (t.flatten(0, 1).split(ROWS) for t in (x, query, grad, *found))
        for points, content, g, grad_points, grad_content in zip(*rows, strict=True):
            made, points = F.linear(content, weight, bias).requires_grad_(), points.detach().requires_grad_()
            with torch.enable_grad():
                mixed = ctx.mix(points, made).flatten(1)
            of_points, of_made = torch.autograd.grad(mixed, (points, made), g @ out_weight)
            grad_points.copy_(of_points)
            torch.mm(of_made, weight, out=grad_content)
            add_product(sums[0], of_made, content)
            add_product(sums[2], g, mixed.detach())
            sums[1] += of_made.sum(0, dtype=wider)
            sums[3] += g.sum(0, dtype=wider)
        return None, *found, *(s.to(p.dtype) for s, p in zip(sums, parameters, strict=True))
