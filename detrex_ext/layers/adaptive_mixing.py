"""Mixing of sampled features by matrices that a query makes (AdaMixer, arXiv 2203.16507, section 3.3).

Shape legend: B images, T queries, G groups, P points in, O points out, C channels of a group, D = G C.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .autocast import as_autocast
from .blockwise import add_product, in_training_on_cpu

ROWS = 200  # queries of a block: from 32 MiB on, memory of a tensor is mapped, and cleared, anew each time
LEAST = 2 * ROWS  # with fewer, keeping what was computed is faster


class AdaptiveMixing(nn.Module):
    """Channel mixing, then spatial mixing, each a matrix of the query's own, then a projection of all that comes out.

    Keys: ``parameter_generator`` (D -> G (C C + O P)), ``out_proj`` (G O C -> D).

    Args:
        dim: D.
        groups: G.
        in_points, out_points: P, O.
    """

    def __init__(self, dim: int = 256, groups: int = 4, in_points: int = 32, out_points: int = 128) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim {dim} must divide by groups {groups}")
        self.groups, self.in_points, self.out_points = groups, in_points, out_points
        self.width = dim // groups
        self.parameter_generator = nn.Linear(dim, groups * (self.width**2 + out_points * in_points))
        self.out_proj = nn.Linear(dim * out_points, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices start the same for every query, but random: the norm that follows could not revive zeros."""
        self.parameter_generator.reset_parameters()
        nn.init.zeros_(self.parameter_generator.weight)
        self.out_proj.reset_parameters()
        nn.init.xavier_uniform_(self.out_proj.weight)

    def forward(self, x_BTGPC: Tensor, query_BTD: Tensor) -> Tensor:
        """(B, T, D), without the residual."""
        made, out = self.parameter_generator, self.out_proj
        if not in_training_on_cpu(query_BTD) or query_BTD[..., 0].numel() < LEAST:
            return out(_mix(x_BTGPC, made(query_BTD)).flatten(2))
        given = (x_BTGPC, query_BTD, made.weight, made.bias, out.weight, out.bias)
        return _Blockwise.apply(*as_autocast(given))


def _mix(x: Tensor, made: Tensor) -> Tensor:
    """(..., G, P, C) by matrices (..., G (C C + O P)) of the same query -> (..., G, O, C)."""
    G, P, C = x.shape[-3:]
    channel_GCC, spatial_GOP = made.unflatten(-1, (G, -1)).tensor_split((C * C,), -1)
    x = _norm_relu(x.to(made.dtype) @ channel_GCC.unflatten(-1, (C, C)))
    return _norm_relu(spatial_GOP.unflatten(-1, (-1, P)) @ x)


class _Blockwise(torch.autograd.Function):
    """All of the mixing, a block of queries at a time, on a CPU.

    A query's matrices and mixed features are 300 KB; those of some hundred queries are moved through memory a dozen
    times. A block stays in the cache, and it is cheaper to make it again for the backward pass than to keep it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, query: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, query, *parameters)
        weight, bias, out_weight, out_bias = parameters
        found = query.new_empty(query.shape)
        rows = (t.flatten(0, 1).split(ROWS) for t in (x, query, found))
        with torch.autocast("cpu", enabled=False):
            for points, content, out in zip(*rows, strict=True):
                mixed = _mix(points, F.linear(content, weight, bias)).flatten(1)
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
                mixed = _mix(points, made).flatten(1)
            of_points, of_made = torch.autograd.grad(mixed, (points, made), g @ out_weight)
            grad_points.copy_(of_points)
            torch.mm(of_made, weight, out=grad_content)
            add_product(sums[0], of_made, content)
            add_product(sums[2], g, mixed.detach())
            sums[1] += of_made.sum(0, dtype=wider)
            sums[3] += g.sum(0, dtype=wider)
        return *found, *(s.to(p.dtype) for s, p in zip(sums, parameters, strict=True))


def _norm_relu(x: Tensor) -> Tensor:
    """ReLU of the norm without parameters over the last two axes together, in the type of ``x``.

    Autocast would give fp32, and these are the largest tensors of the decoder; the norm computes in fp32 inside.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-2:]).relu_()
