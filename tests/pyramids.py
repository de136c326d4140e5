"""Points of feature pyramids, and objects on them, for tests of what looks at places."""

from __future__ import annotations

import torch

from detrex_ext.layers.fcos_targets import STRIDES


def pyramid(height, width, strides=STRIDES, dtype=torch.float32):
    """Points (P, 2), strides (P,) and levels (P,) of the grids over an image, finest first."""
    points, of_stride, levels = [], [], []
    for level, s in enumerate(strides):
        y, x = (torch.arange(-(-size // s)) * s + s // 2 for size in (height, width))
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1).reshape(-1, 2)
        points.append(grid.to(dtype))
        of_stride.append(torch.full((len(grid),), float(s), dtype=dtype))
        levels.append(torch.full((len(grid),), level))
    return torch.cat(points), torch.cat(of_stride), torch.cat(levels)


def objects(n, height, width, g, whole=False):
    """n boxes (xyxy) of all sizes within an image.

    ``whole``: on whole multiples of 4 pixels, so that borders, centers and areas coincide, and half of them twice.
    """
    size = torch.tensor([width, height], dtype=torch.float32)
    center = torch.rand(n, 2, generator=g) * size
    half = 2 * torch.exp(torch.rand(n, 2, generator=g) * torch.log(size / 2))
    boxes = torch.cat([center - half / 2, center + half / 2], 1)
    boxes = torch.minimum(boxes.clamp(min=0), size.repeat(2))
    if whole:
        boxes = (boxes / 4).round() * 4
        boxes[n // 2 :] = boxes[: n - n // 2].clone()
    return boxes
