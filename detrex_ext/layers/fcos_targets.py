"""Which point of a feature pyramid answers for which object, by FCOS's rule (arXiv 1904.01355, section 3; TSP-FCOS).

A point is a candidate of an object if it lies strictly inside the object's box and within ``radius`` strides of its
center, and if the farthest side of the box is as far from it as its level is for. Of several objects the smallest
takes the point, of equal ones the first.

Shape legend: B images, P points, G objects of the batch (flat), L levels, C cells around an object's center. Boxes are
xyxy and points x, y, in pixels of one frame, unless a function says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detrex_ext.structures.placing import placed

from .segments import first_least

FAR = 1e8  # beyond any image, in pixels
RADIUS = 1.5
STRIDES = (8, 16, 32, 64, 128)

Ranges = Sequence[tuple[float, float]]


def level_ranges(strides: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Least and greatest distance to the farthest side, in pixels, that each level is for.

    A level is for 4 to 8 of its strides (arXiv 1904.01355, section 3.2: 64, 128, 256 and 512 for strides from 8 on);
    the finest also for less, the coarsest also for more.
    """
    last = len(strides) - 1
    return tuple((-1.0 if i == 0 else 4.0 * s, FAR if i == last else 8.0 * s) for i, s in enumerate(strides))


RANGES = level_ranges(STRIDES)


def ltrb(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) of points (..., 2) to the left, top, right and bottom sides of (..., 4) boxes."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def centerness(distances: Tensor) -> Tensor:
    """How central points are in their boxes, from (..., 4) distances: (...), 1 in the middle and 0 at a side.

    sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b)) (arXiv 1904.01355, eq. 3). Outside of a box it is 0.
    """
    across, along = distances[..., :2], distances[..., 2:]
    near, far = torch.minimum(across, along).clamp(min=0), torch.maximum(across, along)
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(-1).sqrt()


def ltrb_giou(pred: Tensor, target: Tensor) -> Tensor:
    """Generalized IoU (...) of boxes around common points, from (..., 4) distances in strides (as TSP-FCOS's code).

    IoU - (C - U) / C with IoU = (I + 1) / (U + 1): intersection I, union U, and C the smallest enclosing box. An empty
    enclosing box costs nothing.
    """
    near, far = torch.minimum(pred, target), torch.maximum(pred, target)
    inter, hull = _area(near), _area(far)
    union = _area(pred) + _area(target) - inter
    return (inter + 1) / (union + 1) - (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right) * (top + bottom)


def is_candidate(points: Tensor, strides: Tensor, low: Tensor, high: Tensor, boxes: Tensor, radius: float) -> Tensor:
    """Whether points answer for boxes by the rule of this module: bool, of the broadcast leading axes.

    Args:
        points: (..., 2).
        strides: (...) of the points' levels.
        low: (...) least distance that the points' levels are for.
        high: (...) greatest distance, included as the least is.
        boxes: (..., 4).
        radius: in strides; infinite: all of the box.
    """
    inside = ltrb(points, boxes)
    cared = (inside.amax(-1) >= low) & (inside.amax(-1) <= high)
    center = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    reach = (strides * radius)[..., None]
    first, last = torch.maximum(center - reach, boxes[..., :2]), torch.minimum(center + reach, boxes[..., 2:])
    return cared & ((points > first) & (points < last)).all(-1)


def smallest(candidate: Tensor, point: Tensor, boxes_G4: Tensor, places: int) -> Tensor:
    """For each of ``places`` the smallest object that may have it, of equal ones the first.

    Args:
        candidate: (G, C) bool.
        point: (G, C) int64 place that each candidate is for, in [0, ``places``).
        boxes_G4: objects.
        places: number of places.

    Returns:
        (places,) int64 objects, -1 where there is none.
    """
    G, C = candidate.shape
    # what is no candidate goes to a place of its own
    key = point.where(candidate, places).flatten()
    area = (boxes_G4[:, 2:] - boxes_G4[:, :2]).prod(-1)[:, None].expand(G, C).flatten()
    entry = first_least(key, area, places)
    return (entry // C).where(entry < G * C, -1)


@torch.no_grad()
def fcos_targets(
    points_P2: Tensor,
    strides_P: Tensor,
    levels_P: Tensor,
    boxes_G4: Tensor,
    image_G: Tensor,
    num_images: int,
    radius: float = RADIUS,
    ranges: Ranges = RANGES,
) -> Tensor:
    """The object that each point of a feature pyramid answers for.

    Only the cells around an object's center are looked at, 25 of each level with the usual radius, not every point with
    every object, unless there are fewer points. Shapes depend on those of the arguments, and no value is copied to the
    host.

    Args:
        points_P2: grids of all levels, finest first, each row by row with equal steps of its stride.
        strides_P: pixels per cell of each point's level.
        levels_P: int64 level of each point, ascending from 0.
        boxes_G4: objects.
        image_G: int64 image of each object.
        num_images: B.
        radius: in strides. Infinite: all of a box.
        ranges: of each level, see :func:`level_ranges`.

    Returns:
        (B, P) int64 flat objects, -1 for background.

    Raises:
        ValueError: a radius that is not positive.
    """
    if not radius > 0:
        raise ValueError(f"fcos_targets needs a positive radius (in strides), got {radius}")
    P, G = len(points_P2), len(boxes_G4)
    if not P or not G:
        return torch.full((num_images, P), -1, dtype=torch.int64, device=points_P2.device)
    range_L2 = placed(list(ranges), points_P2)
    boxes = boxes_G4.to(points_P2.dtype)
    if len(ranges) * min(_cells(radius), P) ** 2 >= P:
        found = is_candidate(points_P2, strides_P, *range_L2[levels_P].unbind(-1), boxes[:, None], radius)
        index = torch.arange(P, device=points_P2.device).expand(G, P)
    else:
        found, index = _around_centers(points_P2, strides_P, levels_P, boxes, radius, range_L2)
    return smallest(found, index + (image_G * P)[:, None], boxes_G4, num_images * P).view(num_images, P)


def _around_centers(
    points_P2: Tensor, strides_P: Tensor, levels_P: Tensor, boxes_G4: Tensor, radius: float, range_L2: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether the cells around each object's center are candidates, and which points they are, both (G, L C)."""
    start_L, width_L, height_L = _grids(points_P2, levels_P, len(range_L2))
    stride_L = strides_P[start_L].to(points_P2.dtype)
    column, row = _cells_around(boxes_G4, points_P2[start_L], stride_L, radius).unbind(-1)
    width, height, start = (x[:, None] for x in (width_L, height_L, start_L))
    exists = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index_GLC = (start + row * width + column).where(exists, 0)
    low_L1, high_L1 = range_L2.split(1, 1)
    boxes_G114 = boxes_G4[:, None, None]
    found = exists & is_candidate(points_P2[index_GLC], stride_L[:, None], low_L1, high_L1, boxes_G114, radius)
    return found.flatten(1), index_GLC.flatten(1)


def _grids(points_P2: Tensor, levels_P: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """First point, columns and rows of each level, each (L,); a level that is not there has no cells."""
    P, ones = len(points_P2), torch.ones_like(levels_P)
    count_L = levels_P.new_zeros(levels).index_add(0, levels_P, ones)
    start_L = (count_L.cumsum(0) - count_L).clamp(max=P - 1)
    in_first_row = (points_P2[:, 1] == points_P2[start_L, 1][levels_P]).to(levels_P.dtype)
    width_L = levels_P.new_zeros(levels).index_add(0, levels_P, in_first_row)
    return start_L, width_L, count_L // width_L.clamp(min=1)


def _cells_around(boxes_G4: Tensor, origin_L2: Tensor, stride_L: Tensor, radius: float) -> Tensor:
    """(G, L, C, 2) int64 columns and rows around each object's center, in the grid or not."""
    center_G12 = ((boxes_G4[:, :2] + boxes_G4[:, 2:]) * 0.5)[:, None].to(origin_L2.dtype)
    first = ((center_G12 - origin_L2) / stride_L[:, None] - radius).floor()
    first_GL2 = first.nan_to_num(-FAR).clamp(-FAR, FAR).long()
    side = torch.arange(_cells(radius), device=boxes_G4.device)
    return first_GL2[:, :, None] + torch.cartesian_prod(side, side)


def _cells(radius: float) -> float:
    """Cells in a row of 2 ``radius`` strides, and one more on either side, as the first is found by rounded numbers."""
    return radius if radius == math.inf else math.ceil(2 * radius) + 2
