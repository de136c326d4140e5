"""Bilinear sampling by its definition, four reads for each point: for runtimes without ``grid_sample``."""

from __future__ import annotations

import torch
from torch import Tensor

from detrex_ext.structures.placing import placed

from ..cpu.common import Shapes


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`."""
    B, _, H, D = value_BSHD.shape
    T, K, dtype = at_BTHLK2.shape[1], at_BTHLK2.shape[4], at_BTHLK2.dtype
    own = torch.arange(B * H, device=value_BSHD.device).view(B, 1, H, 1, 1)
    corner_42 = placed([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], at_BTHLK2)
    total = None
    for level, v_BNHD in enumerate(value_BSHD.to(dtype).split([h * w for h, w in shapes], 1)):
        h, w = shapes[level]
        size_2 = placed([float(w), float(h)], at_BTHLK2)
        at = (at_BTHLK2[:, :, :, level] * size_2 - 0.5)[..., None, :]
        cell = at.floor() + corner_42
        outside = ((cell < 0) | (cell >= size_2)).any(-1)
        share = (1 - (at - cell).abs()).prod(-1).masked_fill(outside, 0.0)
        index = torch.where(share > 0, cell[..., 1] * w + cell[..., 0], 0.0).long() + own * (h * w)
        rows = v_BNHD.transpose(1, 2).reshape(B * H * h * w, D).index_select(0, index.flatten())
        weight = (share * weight_BTHLK[:, :, :, level, :, None]).flatten(3)
        part = (rows.view(B, T, H, 4 * K, D) * weight[..., None]).sum(3)
        total = part if total is None else total + part
    return total.flatten(2)
