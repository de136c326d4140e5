"""Bilinear sampling by its definition, four reads for each point: for runtimes without ``grid_sample``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cpu.common import Shapes


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`."""
    B, _, H, D = value_BSHD.shape
    T, K, dtype = at_BTHLK2.shape[1], at_BTHLK2.shape[4], at_BTHLK2.dtype
    own = torch.arange(B * H, device=value_BSHD.device).view(B, 1, H, 1)
    total = None
    for level, v_BNHD in enumerate(value_BSHD.to(dtype).split([h * w for h, w in shapes], 1)):
        h, w = shapes[level]
        rows = v_BNHD.transpose(1, 2).reshape(B * H * h * w, D)
        at = at_BTHLK2[:, :, :, level]
        x, y = at[..., 0] * w - 0.5, at[..., 1] * h - 0.5
        left, upper = x.floor(), y.floor()
        for down in (0, 1):
            for right in (0, 1):
                column, row = left + right, upper + down
                outside = (column < 0) | (column >= w) | (row < 0) | (row >= h)
                share = ((1 - (x - column).abs()) * (1 - (y - row).abs())).masked_fill(outside, 0.0)
                cell = torch.where(share > 0, row * w + column, 0.0).long() + own * (h * w)
                read = rows.index_select(0, cell.flatten()).view(B, T, H, K, D)
                part = (read * (share * weight_BTHLK[:, :, :, level])[..., None]).sum(3)
                total = part if total is None else total + part
    return total.flatten(2)
