"""FCOS's targets: every point of every image looked at with every object, in numpy, says the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from no_values import without_values
from pyramids import objects, pyramid

from detrex_ext.layers.fcos_targets import (
    RANGES,
    STRIDES,
    centerness,
    fcos_targets,
    level_ranges,
    ltrb,
    ltrb_giou,
)

F32 = np.float32


def by_all_points(points, strides, levels, boxes, image, images, radius=1.5, ranges=RANGES):
    """The rule as it is written, for every point and every object."""
    points, strides, levels, boxes, image = (x.numpy() for x in (points, strides, levels, boxes, image))
    low, high = np.asarray(ranges, points.dtype)[levels].T[..., None]
    x, y = points.T[..., None]
    found = []
    for b in range(images):
        mine = np.flatnonzero(image == b)
        if not len(mine):
            found.append(np.full(len(points), -1))
            continue
        x0, y0, x1, y1 = boxes[mine].astype(points.dtype).T[:, None]
        with np.errstate(all="ignore"):
            sides = np.stack([x - x0, y - y0, x1 - x, y1 - y])
            cx, cy, reach = (x0 + x1) * F32(0.5), (y0 + y1) * F32(0.5), (strides * F32(radius))[:, None]
            ok = (x > np.maximum(cx - reach, x0)) & (x < np.minimum(cx + reach, x1))
            ok &= (y > np.maximum(cy - reach, y0)) & (y < np.minimum(cy + reach, y1))
            ok &= (sides.max(0) >= low) & (sides.max(0) <= high)
            area = np.where(ok, (boxes[mine, 2] - boxes[mine, 0]) * (boxes[mine, 3] - boxes[mine, 1]), np.inf)
        found.append(np.where(ok.any(1), mine[area.argmin(1)], -1))
    return torch.from_numpy(np.stack(found))


def test_two_thousand_images():
    g = torch.Generator().manual_seed(0)
    positives = crowded = 0
    for batch in range(100):
        height, width = torch.randint(40, 400, (2,), generator=g).tolist()
        grid = pyramid(height, width)
        counts = torch.randint(0, 61, (20,), generator=g).tolist()
        parts = [objects(n, height, width, g, whole=batch % 2 == 1) for n in counts]
        boxes, image = torch.cat(parts), torch.repeat_interleave(torch.arange(20), torch.tensor(counts))
        found = fcos_targets(*grid, boxes, image, 20)
        wanted = by_all_points(*grid, boxes, image, 20)
        assert torch.equal(found, wanted), f"batch {batch}: {int((found != wanted).sum())} points differ"
        positives, crowded = positives + int((found >= 0).sum()), crowded + (max(counts) > 50)
    assert positives > 50_000 and crowded


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5, math.inf])
@pytest.mark.parametrize("strides", [(4, 8, 16), STRIDES])
def test_other_radii_and_levels(radius, strides):
    g = torch.Generator().manual_seed(1)
    grid, ranges = pyramid(200, 312, strides), level_ranges(strides)
    boxes, image = objects(60, 200, 312, g), torch.arange(60) % 3
    found = fcos_targets(*grid, boxes, image, 3, radius, ranges)
    assert torch.equal(found, by_all_points(*grid, boxes, image, 3, radius, ranges)) and (found >= 0).any()


def test_a_radius_beyond_the_image_is_that_of_all_of_a_box():
    grid, boxes = pyramid(200, 312), objects(9, 200, 312, torch.Generator().manual_seed(4))
    image = torch.zeros(9, dtype=torch.int64)
    wide, whole = (fcos_targets(*grid, boxes, image, 1, radius) for radius in (1e6, math.inf))
    assert torch.equal(wide, whole) and (wide >= 0).any()


def test_ranges_are_the_published_ones():
    assert RANGES == ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))


def test_equal_objects_go_to_the_first_and_small_ones_win():
    grid = pyramid(64, 64)
    boxes = torch.tensor([[8.0, 8, 56, 56], [16, 16, 48, 48], [16, 16, 48, 48]])
    found = fcos_targets(*grid, boxes, torch.zeros(3, dtype=torch.int64), 1)
    assert set(found.unique().tolist()) == {-1, 1}


def test_a_box_that_is_none_takes_no_point():
    nan, inf = math.nan, math.inf
    odd = [[nan] * 4, [0, 0, nan, 64], [-inf, 0, inf, 64], [inf] * 4, [40.0, 40, 40, 40], [60, 60, 20, 20], [9e30] * 4]
    boxes = torch.tensor([*odd, [16.0, 16, 48, 48]])
    found = fcos_targets(*pyramid(64, 64), boxes, torch.zeros(len(boxes), dtype=torch.int64), 1)
    assert set(found.unique().tolist()) == {-1, len(odd)}


def test_nothing_there():
    grid, none = pyramid(64, 64), torch.zeros(0, dtype=torch.int64)
    assert (fcos_targets(*grid, torch.zeros(0, 4), none, 2) == -1).all()
    assert fcos_targets(*grid, torch.zeros(0, 4), none, 0).shape == (0, len(grid[0]))
    empty = (torch.zeros(0, 2), torch.zeros(0), none)
    assert fcos_targets(*empty, torch.ones(3, 4), torch.zeros(3, dtype=torch.int64), 2).shape == (2, 0)
    with pytest.raises(ValueError, match="positive radius"):
        fcos_targets(*grid, torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), 1, radius=0)


def test_a_level_that_is_not_there():
    """A small image has no cells on some levels, where an encoder leaves them out."""
    points, strides, levels = pyramid(64, 64)
    kept = levels != 1
    boxes, image = objects(40, 64, 64, torch.Generator().manual_seed(2)), torch.zeros(40, dtype=torch.int64)
    grid = points[kept], strides[kept], levels[kept]
    assert torch.equal(fcos_targets(*grid, boxes, image, 1), by_all_points(*grid, boxes, image, 1))


def test_shapes_do_not_depend_on_values():
    with without_values():
        for size in (100, 1000):  # every point, and those around centers alone
            grid = torch.zeros(size, 2), torch.zeros(size), torch.zeros(size, dtype=torch.int64)
            given = (x.to("cuda") for x in (*grid, torch.zeros(7, 4), torch.zeros(7, dtype=torch.int64)))
            found = fcos_targets(*given, 3)
            assert found.shape == (3, size) and found.device.type == "cuda"


def test_centerness_by_hand():
    distances = torch.tensor([[1.0, 2, 3, 4], [2, 2, 2, 2], [0, 1, 5, 1], [-1, 1, 5, 1], [0, 0, 0, 0]])
    wanted = [math.sqrt(1 / 3 * 2 / 4), 1, 0, 0, 0]
    torch.testing.assert_close(centerness(distances), torch.tensor(wanted))
    points, boxes = torch.tensor([[10.0, 20.0]]), torch.tensor([[4.0, 5, 30, 28]])
    assert ltrb(points, boxes).tolist() == [[6, 15, 20, 8]]


def test_giou_of_distances_by_hand():
    pred, true = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 1, 1, 5])
    inter, a, b, hull = (1 + 1) * (1 + 4), 4 * 6, 3 * 6, (2 + 3) * (2 + 5)
    union = a + b - inter
    wanted = (inter + 1) / (union + 1) - (hull - union) / hull
    torch.testing.assert_close(ltrb_giou(pred, true), torch.tensor(wanted))
    assert ltrb_giou(true, true) == 1 and ltrb_giou(torch.zeros(4), torch.zeros(4)) == 1
    x = torch.rand(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ltrb_giou, (x, torch.rand(6, 4, dtype=torch.float64)))
