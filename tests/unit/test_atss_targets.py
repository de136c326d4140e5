"""ATSS's assignment, object by object and anchor by anchor in plain Python."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from detrex_ext.layers.atss_targets import INSIDE, atss_targets


def anchors_of(height, width, strides, size=8.0):
    """Anchors (S, 4) around the corners of all cells, and their number on each level."""
    found, counts = [], []
    for s in strides:
        cells = [(x * s, y * s) for y in range(-(-height // s)) for x in range(-(-width // s))]
        found += [[x - size * s / 2, y - size * s / 2, x + size * s / 2, y + size * s / 2] for x, y in cells]
        counts.append(len(cells))
    return torch.tensor(found, dtype=torch.float64), counts


def iou(a, b):
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / max(union, 1e-12)


def by_hand(anchors, sizes, boxes, image, valid, k):
    """The rule as it is written."""
    anchors, boxes = anchors.tolist(), boxes.tolist()
    taken = [[(-math.inf, -1)] * len(anchors) for _ in valid]
    centers = [((a[0] + a[2]) / 2, (a[1] + a[3]) / 2) for a in anchors]
    for g, (box, b) in enumerate(zip(boxes, image.tolist(), strict=True)):
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates, start = [], 0
        for size in sizes:
            own = [i for i in range(start, start + size) if valid[b, i]]
            candidates += sorted(own, key=lambda i: (math.dist(centers[i], middle), i))[:k]
            start += size
        overlaps = [iou(anchors[i], box) for i in candidates]
        if len(overlaps) < 2:
            continue
        least = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for i, overlap in zip(candidates, overlaps, strict=True):
            x, y = centers[i]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > INSIDE
            if overlap >= least and inside and overlap > taken[b][i][0]:
                taken[b][i] = (overlap, g)
    return torch.tensor([[g for _, g in row] for row in taken])


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 2), (12, 9)], ids=str)
@pytest.mark.parametrize("strides, k, size", [((8, 16, 32), 9, 8.0), ((32, 64), 9, 1.5), ((16,), 3, 2.0)])
def test_by_hand(counts, strides, k, size):
    torch.manual_seed(sum(counts) + k)
    anchors, sizes = anchors_of(96, 128, strides, size)
    valid = torch.rand(2, len(anchors)) < 0.9
    start = torch.rand(sum(counts), 2, dtype=torch.float64) * torch.tensor([90.0, 70.0])
    boxes = torch.cat([start, start + 2 + 60 * torch.rand(sum(counts), 2, dtype=torch.float64)], 1)
    image = torch.tensor([0] * counts[0] + [1] * counts[1], dtype=torch.int64)
    found = atss_targets(anchors, sizes, boxes, image, valid, k)
    assert torch.equal(found, by_hand(anchors, sizes, boxes, image, valid, k))
    assert (found >= 0).any() == bool(sum(counts))


def test_of_equally_near_anchors_the_first():
    """An object in the middle of four corners: with one candidate of a level it is the upper left one."""
    anchors, sizes = anchors_of(64, 64, (16, 32))
    box, image = torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.zeros(1, dtype=torch.int64)
    valid = torch.ones(1, len(anchors), dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        found = atss_targets(anchors.to(dtype), sizes, box, image, valid, k=2)
        assert torch.equal(found, by_hand(anchors, sizes, box, image, valid, 2))


def test_a_contested_anchor_goes_to_the_object_of_highest_iou():
    anchors, sizes = anchors_of(128, 128, (8, 16))
    boxes = torch.tensor([[20.0, 20.0, 100.0, 100.0], [24.0, 24.0, 88.0, 88.0]], dtype=torch.float64)
    image, valid = torch.zeros(2, dtype=torch.int64), torch.ones(1, len(anchors), dtype=torch.bool)
    alone = [set((atss_targets(anchors, sizes, boxes[[g]], image[:1], valid) >= 0).nonzero()[:, 1].tolist())
             for g in (0, 1)]  # fmt: skip
    assert alone[0] & alone[1]
    together = atss_targets(anchors, sizes, boxes, image, valid)[0]
    for i in alone[0] & alone[1]:
        overlaps = [iou(anchors[i].tolist(), box) for box in boxes.tolist()]
        assert together[i] == overlaps.index(max(overlaps))


def test_boxes_without_a_size_or_a_number_take_nothing():
    anchors, sizes = anchors_of(64, 64, (8, 16))
    nan = float("nan")
    boxes = torch.tensor([[8.0, 8.0, 8.0, 8.0], [nan, nan, nan, nan], [1e30, 1e30, 2e30, 2e30], [4.0, 4.0, 60.0, 60.0]])
    valid = torch.ones(1, len(anchors), dtype=torch.bool)
    found = atss_targets(anchors.float(), sizes, boxes, torch.zeros(4, dtype=torch.int64), valid)
    assert set(found.unique().tolist()) == {-1, 3}
