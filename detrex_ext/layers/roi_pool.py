"""Features of boxes from the levels of a pyramid.

Shape legend: V boxes of all images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

CANONICAL = 224.0, 4  # a box of this side, in pixels, is read from the level of stride 2 to the power of this


def pyramid_levels(boxes_V4: Tensor, strides: Sequence[int]) -> Tensor:
    """(V,) int64, which level each box is read from: larger ones from coarser levels (arXiv 1612.03144, equation 1).

    Args:
        boxes_V4: xyxy in pixels.
        strides: of the levels, powers of two, each twice the one before.
    """
    finest = strides[0].bit_length() - 1
    side_V = (boxes_V4[:, 2:] - boxes_V4[:, :2]).prod(-1).clamp(min=0).sqrt()
    level_V = (CANONICAL[1] + (side_V / CANONICAL[0] + 1e-8).log2()).floor()
    return level_V.clamp(finest, finest + len(strides) - 1).long() - finest


def pooled(
    maps: Sequence[Tensor], strides: Sequence[int], boxes_V4: Tensor, image_V: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """``size`` x ``size`` features of each box, level by level (RoIAlign of half-pixel centers, arXiv 1703.06870).

    torchvision's ``MultiScaleRoIAlign`` has no half-pixel centers.

    Args:
        maps: per level (B, C, H, W).
        strides: pixels per cell of each level.
        boxes_V4: xyxy in pixels.
        image_V: int64 image of each box.
        size: cells of each side.

    Returns:
        (V, C, size, size) features, and (V,) int64 boxes that they are of.
    """
    rois_V5 = torch.cat([image_V[:, None].to(boxes_V4.dtype), boxes_V4], 1)
    level_V = pyramid_levels(boxes_V4, strides)
    order = [(level_V == level).nonzero()[:, 0] for level in range(len(strides))]
    found = []
    for m, stride, own in zip(maps, strides, order, strict=True):
        m = m.to(torch.promote_types(m.dtype, torch.float32))
        found.append(roi_align(m, rois_V5[own].to(m.dtype), size, 1 / stride, 0, aligned=True))
    return torch.cat(found), torch.cat(order)


def pooled_in_graph(
    maps: Sequence[Tensor], strides: Sequence[int], boxes_V4: Tensor, image_V: Tensor, size: int
) -> Tensor:
    """(V, C, size, size), as :func:`pooled` in the order of the boxes, where no length may depend on values.

    Each level reads all boxes: those of others as empty ones, which cost little.
    """
    rois_V5 = torch.cat([image_V[:, None].to(boxes_V4.dtype), boxes_V4], 1)
    level_V = pyramid_levels(boxes_V4, strides)
    total = None
    for level, (m, stride) in enumerate(zip(maps, strides, strict=True)):
        own_V1 = (level_V == level)[:, None]
        rois = torch.cat([rois_V5[:, :1], rois_V5[:, 1:].where(own_V1, 0.0)], 1)
        m = m.to(torch.promote_types(m.dtype, torch.float32))
        found = roi_align(m, rois.to(m.dtype), size, 1 / stride, 0, aligned=True)
        found = found.where(own_V1[..., None, None], 0.0)
        total = found if total is None else total + found
    return total
