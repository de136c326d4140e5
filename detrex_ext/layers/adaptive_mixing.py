"""Mixing of sampled features by matrices that a query makes (AdaMixer, arXiv 2203.16507, section 3.3).

Shape legend: B images, T queries, G groups, P points in, O points out, C channels of a group, D = G C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu import kernels


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

    @kernels("AdaptiveMixing")
    def forward(self, x_BTGPC: Tensor, query_BTD: Tensor) -> Tensor:
        """(B, T, D), without the residual."""
        return self.out_proj(self.mix(x_BTGPC, self.parameter_generator(query_BTD)).flatten(2))

    @staticmethod
    def mix(x: Tensor, made: Tensor) -> Tensor:
        """(..., G, P, C) by matrices (..., G (C C + O P)) of the same query -> (..., G, O, C)."""
        G, P, C = x.shape[-3:]
        channel_GCC, spatial_GOP = made.unflatten(-1, (G, -1)).tensor_split((C * C,), -1)
        x = _norm_relu(x.to(made.dtype) @ channel_GCC.unflatten(-1, (C, C)))
        return _norm_relu(spatial_GOP.unflatten(-1, (-1, P)) @ x)


def _norm_relu(x: Tensor) -> Tensor:
    """ReLU of the norm without parameters over the last two axes together, in the type of ``x``.

    Autocast would give fp32, and these are the largest tensors of the decoder; the norm computes in fp32 inside.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-2:]).relu_()
