"""Work of the suite `criterion` too: which point of a feature pyramid answers for which object, by FCOS's rule."""

from __future__ import annotations

import torch
from torch import Tensor

from detrex_ext.layers.fcos_targets import RADIUS, RANGES, STRIDES, fcos_targets, is_candidate

from .measure import Work

IMAGES, HEIGHT, WIDTH, OBJECTS = 2, 800, 1344, 30


def points(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points (P, 2), strides (P,) and levels (P,) of an image."""
    grids, strides, levels = [], [], []
    for level, s in enumerate(STRIDES):
        y, x = (torch.arange(-(-size // s)) * s + s // 2 for size in (HEIGHT, WIDTH))
        grids.append(torch.cartesian_prod(y, x).flip(1).float())
        strides.append(torch.full((len(grids[-1]),), float(s)))
        levels.append(torch.full((len(grids[-1]),), level))
    return tuple(torch.cat(parts).to(device) for parts in (grids, strides, levels))


def objects(device: str) -> tuple[Tensor, Tensor]:
    """Boxes (G, 4) of all sizes, xyxy in pixels, and the image (G,) of each."""
    make = torch.Generator().manual_seed(0)
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    center = torch.rand(IMAGES * OBJECTS, 2, generator=make) * size
    half = 4 * torch.exp(torch.rand(IMAGES * OBJECTS, 2, generator=make) * 4)
    boxes = torch.minimum(torch.cat([center - half, center + half], 1).clamp(min=0), size.repeat(2))
    return boxes.to(device), torch.arange(IMAGES, device=device).repeat_interleave(OBJECTS)


def around_centers(device: str) -> Work:
    """The cells around each object's center."""
    grid, (boxes, image) = points(device), objects(device)
    return lambda: fcos_targets(*grid, boxes, image, IMAGES)


def everywhere(device: str) -> Work:
    """Every point with every object, one image after the other."""
    (at, strides, levels), (boxes, image) = points(device), objects(device)
    low, high = at.new_tensor(RANGES)[levels].unbind(1)

    def run() -> Tensor:
        found = []
        for one in range(IMAGES):
            index = (image == one).nonzero()[:, 0]
            own = boxes[index]
            fits = is_candidate(at[:, None], strides[:, None], low[:, None], high[:, None], own, RADIUS)
            area = (own[:, 2:] - own[:, :2]).prod(1).expand(len(at), -1).masked_fill(~fits, float("inf"))
            least, chosen = area.min(1)
            found.append(index[chosen].where(least < float("inf"), -1))
        return torch.stack(found)

    return run


CASE = f"FCOS's targets, {IMAGES} images of {HEIGHT}x{WIDTH}, {OBJECTS} objects each"
IMPLEMENTATIONS = {"every point with every object": everywhere, "detrex_ext": around_centers}
