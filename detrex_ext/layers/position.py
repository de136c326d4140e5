"""Sine position codes.

Shape legend: B images, H x W cells of a level, C channels, T tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _frequencies(num_feats: int, temperature: float, like: Tensor) -> Tensor:
    """(num_feats,) divisors temperature^(2 floor(i/2) / num_feats)."""
    index = torch.arange(num_feats, dtype=like.dtype, device=like.device)
    return temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / num_feats)


def _sin_cos(x: Tensor, num_feats: int, temperature: float) -> Tensor:
    """(...,) -> (..., num_feats): sin at even and cos at odd channels."""
    angle = x[..., None] / _frequencies(num_feats, temperature, x)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)


def sine_map(
    pad_BHW: Tensor,
    num_feats: int = 128,
    temperature: float = 10000.0,
    offset: float = 0.0,
    dtype=torch.float32,
    parity_padding: bool = False,
) -> Tensor:
    """Position code of each cell of a map, normalized by the valid area to (0, 2 pi].

    Source: DETR (arXiv 2005.12872), appendix A.4; the offset of -0.5 is Deformable-DETR's. The valid area is the
    top-left rectangle, so the code is separable; cells outside it take the code of the valid edge.

    Args:
        pad_BHW: True = padding.
        num_feats: channels of each axis.
        temperature: base of the channels' wavelengths.
        offset: added to the count of a cell, which starts at 1; -0.5 is the center of the cell.
        dtype: of the code.
        parity_padding: as detrex outside the valid area, for models that look there: a column without a valid cell
            counts no rows, a row without one no columns.

    Returns:
        (B, H, W, 2 num_feats): first the code of y, then that of x.
    """
    valid_BH, valid_BW = (~pad_BHW[:, :, 0]).to(dtype), (~pad_BHW[:, 0, :]).to(dtype)
    B, H, W = pad_BHW.shape
    parts = []
    for along, across, axis in ((valid_BH, valid_BW, 2), (valid_BW, valid_BH, 1)):
        count, total = along.cumsum(1).unsqueeze(axis), along.sum(1)[:, None, None]
        if parity_padding:
            there = across.unsqueeze(3 - axis)
            count, total = count * there, total * there
        angle = (count + offset) / (total + 1e-6) * (2 * math.pi)
        parts.append(_sin_cos(angle, num_feats, temperature).expand(B, H, W, num_feats))
    return torch.cat(parts, -1)


def sine_cells(cell_BN2: Tensor, valid_BN2: Tensor, num_feats: int = 256, temperature: float = 10000.0) -> Tensor:
    """The code that :func:`sine_map` (``parity_padding``) has at single cells, in closed form.

    Args:
        cell_BN2: column and row of each cell in its map, from 0.
        valid_BN2: columns and rows of that map that are not padding, float; they are the first ones.
        num_feats: channels of each axis.
        temperature: as in :func:`sine_map`.

    Returns:
        (B, N, 2 num_feats): first the code of y, then that of x; of the type of ``valid_BN2``.
    """
    inside_BN2 = (cell_BN2 < valid_BN2).flip(-1).to(valid_BN2.dtype)  # a padded column counts no rows, a row no columns
    count_BN2 = torch.minimum(cell_BN2 + 1, valid_BN2) * inside_BN2
    angle_BN2 = count_BN2 / (valid_BN2 * inside_BN2 + 1e-6) * (2 * math.pi)
    return _sin_cos(angle_BN2.flip(-1), num_feats, temperature).flatten(-2)


def sine_scalars(x: Tensor, num_feats: int = 64, temperature: float = 10000.0) -> Tensor:
    """Position code of each of D numbers, taken as angles: (..., D) to (..., D num_feats)."""
    return _sin_cos(x, num_feats, temperature).flatten(-2)


def sine_boxes(
    boxes_BT4: Tensor, num_feats: int = 128, temperature: float = 10000.0, order: tuple[int, ...] = (1, 0, 2, 3)
) -> Tensor:
    """Position code of boxes (or points): coordinates in [0, 1], times 2 pi.

    Args:
        boxes_BT4: normalized cxcywh; any other coordinates in [0, 1] with an ``order`` of their own.
        num_feats: channels of each coordinate.
        temperature: as in :func:`sine_map`.
        order: coordinate of each block of ``num_feats`` channels; the default is y, x, w, h (DAB-DETR), Deformable's
            two-stage code is x, y, w, h.

    Returns:
        (B, T, len(order) * num_feats).
    """
    # a list as an index would travel to the device
    ordered = torch.stack([boxes_BT4[..., i] for i in order], -1)
    return _sin_cos(ordered * (2 * math.pi), num_feats, temperature).flatten(-2)
