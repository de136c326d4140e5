"""Deformable sampling as one bag of rows for each query and head: for few points on large maps, on a CPU.

A bag is all corners of all points of all levels, rows of the memory as it lies; nothing is laid out beforehand, so the
forward pass costs what the points cost, however large the maps are.

Shape legend: T queries, H heads, D channels of a head, L levels, K points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detrex_ext.structures.placing import placed

from .common import Shapes


def fits(value_BSHD: Tensor, at_BTHLK2: Tensor | None = None) -> bool:
    """On a CPU, with so few points that gathering each takes no longer than laying out the memory first."""
    if value_BSHD.device.type != "cpu" or at_BTHLK2 is None:
        return False
    corners = 4 * at_BTHLK2[0, :, 0, ..., 0].numel()
    return corners < 3 * value_BSHD.shape[1]


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`. Differentiable once."""
    B, S, H, D = value_BSHD.shape
    T = at_BTHLK2.shape[1]
    cells_L = [h * w for h, w in shapes]
    size_L12 = placed([[w, h] for h, w in shapes], at_BTHLK2)[:, None]
    first_L1 = placed([sum(cells_L[:i]) for i in range(len(cells_L))], at_BTHLK2)[:, None]
    xy = at_BTHLK2 * size_L12 - 0.5
    # a point that reaches no cell moves to one place outside, which infinity too can do; NaN stays
    xy = torch.where((xy < -1) | (xy >= size_L12), size_L12, xy)
    low = xy.detach().floor()
    fx, fy = (xy - low).unbind(-1)
    batch = torch.arange(B, device=value_BSHD.device).view(B, 1, 1, 1, 1)
    head = torch.arange(H, device=value_BSHD.device).view(H, 1, 1)
    rows, weights = [], []
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            x, y = low[..., 0] + dx, low[..., 1] + dy
            inside = (x >= 0) & (x < size_L12[..., 0]) & (y >= 0) & (y < size_L12[..., 1])
            # NaN is not inside: it stays in the weight
            cell = torch.where(inside, y * size_L12[..., 0] + x + first_L1, 0.0).long()
            rows.append((batch * S + cell) * H + head)
            weights.append(wx * wy * weight_BTHLK * inside)
    row, weight = (torch.stack(parts, -1).view(B * T * H, -1) for parts in (rows, weights))
    table = value_BSHD.to(at_BTHLK2.dtype).reshape(B * S * H, D)
    if weight.requires_grad and not table.requires_grad:  # torch 2.4 has no gradient of the weights alone
        table = table.detach().requires_grad_()
    return F.embedding_bag(row, table, mode="sum", per_sample_weights=weight).view(B, T, H * D)
