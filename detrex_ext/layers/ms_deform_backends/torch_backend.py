"""The reference backend: torch's bilinear ``grid_sample`` level by level."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..cpu.common import Shapes


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`."""
    B, _, H, D = value_BSHD.shape
    T, dtype = at_BTHLK2.shape[1], at_BTHLK2.dtype
    grid = 2 * at_BTHLK2 - 1
    total = None
    for level, v_BNHD in enumerate(value_BSHD.to(dtype).split([h * w for h, w in shapes], 1)):
        h, w = shapes[level]
        maps = v_BNHD.permute(0, 2, 3, 1).reshape(B * H, D, h, w)
        points = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled = F.grid_sample(maps, points, mode="bilinear", padding_mode="zeros", align_corners=False)
        part = (sampled * weight_BTHLK[:, :, :, level].transpose(1, 2).reshape(B * H, 1, T, -1)).sum(-1)
        total = part if total is None else total + part
    return total.view(B, H * D, T).transpose(1, 2)
