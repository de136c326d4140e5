"""What TSP-RCNN's proposals and regions are made of: subsets, targets, pooling, suppression."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou, roi_align

from detrex_ext.layers.anchor_targets import anchor_targets, jittered
from detrex_ext.layers.roi_pool import pooled, pyramid_levels
from detrex_ext.layers.soft_nms import PRUNE, soft_nms
from detrex_ext.layers.subsets import balanced_subset, kept_shares, marked_first, random_subset


def boxes_of(count, generator, size=100.0):
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * size], 1)


def test_a_subset_has_its_number_and_only_candidates():
    make = torch.Generator().manual_seed(0)
    for _ in range(200):
        q = int(torch.randint(1, 40, (), generator=make))
        of = torch.rand(3, q, generator=make) < torch.rand(3, 1, generator=make)
        most, limit = int(torch.randint(0, 30, (), generator=make)), torch.randint(0, 30, (3,), generator=make)
        found = random_subset(of, most, limit)
        assert not (found & ~of).any()
        assert found.sum(1).tolist() == [min(int(a), most, int(b)) for a, b in zip(of.sum(1), limit, strict=True)]
    assert random_subset(torch.ones(2, 0, dtype=torch.bool), 5).shape == (2, 0)


def test_all_subsets_are_as_likely():
    torch.manual_seed(0)
    of = torch.tensor([True, False, True, True, False, True]).expand(6000, 6)
    share = random_subset(of, 2).double().mean(0)
    assert torch.equal(share == 0, ~of[0])
    torch.testing.assert_close(share[of[0]], torch.full((4,), 0.5).double(), rtol=0, atol=0.03)


def test_a_subset_is_drawn_again_from_the_same_state():
    state = torch.get_rng_state()
    of = torch.ones(2, 50, dtype=torch.bool)
    first, second = (balanced_subset(of, ~of, 20, 0.5) for _ in range(2))
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(balanced_subset(of, ~of, 20, 0.5), first)


@pytest.mark.parametrize("positives, negatives, expected", [
    (300, 1000, (175, 525)),  # more than a quarter are of objects: the rest are not taken
    (100, 1000, (100, 600)),
    (300, 200, (175, 200)),  # too few others: the set is smaller
    (0, 900, (0, 700)),
    (0, 0, (0, 0)),
])  # fmt: skip
def test_balance(positives, negatives, expected):
    positive = torch.arange(1500)[None] < positives
    negative = torch.arange(1500)[None] >= 1500 - negatives
    taken = balanced_subset(positive, negative, 700, 0.25)
    assert (int((taken & positive).sum()), int((taken & negative).sum())) == expected
    assert int(taken.sum()) == sum(expected)


def test_marked_come_first_and_keep_their_order():
    marked = torch.tensor([[False, True, False, True], [True, False, False, False]])
    assert marked_first(marked, 3).tolist() == [[1, 3, 0], [0, 1, 2]]


@pytest.mark.parametrize("keep", [0, 0.0, 1.1, (0.9, 0.5), (-1, 1)])
def test_shares_that_are_none_are_refused(keep):
    with pytest.raises(ValueError, match="token_keep is a share above 0"):
        kept_shares(keep)


def test_anchors_by_the_rule_of_torchvision():
    """Equal to its matcher, which promises every object its nearest anchors, equal ones too."""
    make, theirs = torch.Generator().manual_seed(1), Matcher(0.7, 0.3, allow_low_quality_matches=True)
    for _ in range(200):
        anchors, objects = boxes_of(60, make), boxes_of(int(torch.randint(1, 8, (), generator=make)), make)
        anchors = torch.cat([anchors, anchors[:5], objects[:1]])
        iou = box_iou(objects, anchors)
        known = theirs(iou)
        gt, negative = anchor_targets(anchors, objects)
        touched = iou.amax(1) > 0
        assert touched.all()
        assert torch.equal(gt, known.clamp(min=-1).where(known >= 0, -1))
        assert torch.equal(negative, known == theirs.BELOW_LOW_THRESHOLD)


def test_an_object_that_no_anchor_overlaps_has_none():
    anchors, far = torch.tensor([[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 9.0, 9.0]]), torch.tensor([[50.0, 50.0, 60.0, 60.0]])
    for objects in (far, torch.zeros(0, 4), torch.tensor([[7.0, 7.0, 7.0, 7.0]])):
        gt, negative = anchor_targets(anchors, objects)
        assert gt.tolist() == [-1, -1] and negative.tolist() == [True, True]


def test_jitter_moves_centers_by_a_tenth_and_sizes_by_a_quarter():
    boxes, make = boxes_of(500, torch.Generator().manual_seed(2)), torch.Generator().manual_seed(3)
    found = jittered(boxes, torch.rand(500, 4, generator=make))
    size, new = boxes[:, 2:] - boxes[:, :2], found[:, 2:] - found[:, :2]
    shift = ((found[:, :2] + found[:, 2:]) - (boxes[:, :2] + boxes[:, 2:])) / 2 / size
    assert 0.09 < shift.abs().max() <= 0.1 + 1e-12
    assert 0.8 - 1e-12 <= (new / size).min() < 0.82 and 1.22 < (new / size).max() <= 1.25 + 1e-12
    torch.testing.assert_close(jittered(boxes, torch.full((500, 4), 0.5)), boxes, rtol=1e-12, atol=1e-12)
    iou = box_iou(boxes, found).diag()
    assert (iou > 0.5).all()  # so that they may answer for the object they are made from


def test_levels_of_boxes():
    sides = [0.0, 1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0]
    boxes = torch.tensor([[10.0, 10.0, 10 + s, 10 + s] for s in sides])
    assert pyramid_levels(boxes, (4, 8, 16, 32)).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_pooling_is_torchvisions_with_half_pixel_centers():
    make = torch.Generator().manual_seed(4)
    strides, boxes = (4, 8, 16, 32), boxes_of(30, make, 300.0)
    image = torch.arange(30) % 2
    maps = [torch.randn(2, 3, 704 // s, 704 // s, generator=make, dtype=torch.float64) for s in strides]
    found, of = pooled(maps, strides, boxes, image, 7)
    assert of.sort().values.tolist() == list(range(30))
    level = pyramid_levels(boxes, strides)
    for row, i in zip(found, of.tolist(), strict=True):
        roi = torch.cat([image[i : i + 1, None].double(), boxes[i : i + 1]], 1)
        alone = roi_align(maps[level[i]], roi, 7, 1 / strides[level[i]], 0, aligned=True)[0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-12)
    other = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 0)
    whole = other({str(i): m for i, m in enumerate(maps)}, [boxes[image == 0], boxes[image == 1]], [(704, 704)] * 2)
    assert not torch.allclose(whole[0], found[of == 0][0])  # which has none
    nothing, of = pooled(maps, strides, boxes[:0], image[:0], 7)
    assert nothing.shape == (0, 3, 7, 7) and of.shape == (0,)


def by_loop(boxes, scores, groups, kind, iou, sigma, top_k):
    left, out = dict(enumerate(scores.tolist())), [0.0] * len(scores)
    while left and (top_k is None or sum(s > 0 for s in out) < top_k):
        best = max(left, key=left.get)
        out[best] = left.pop(best)
        for i in list(left):
            o = float(box_iou(boxes[best : best + 1], boxes[i : i + 1]))
            factor = (1 - o if o > iou else 1.0) if kind == "linear" else math.exp(-o * o / sigma)
            left[i] *= factor if groups[i] == groups[best] else 1.0
            if left[i] <= PRUNE:
                del left[i]
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_soft_suppression_equals_loops(kind):
    make = torch.Generator().manual_seed(5)
    for top_k, size in ((None, 20.0), (3, 20.0), (20, 20.0), (20, 0.1)):  # the last: most are dropped
        boxes, scores = boxes_of(20, make, size), torch.rand(20, generator=make, dtype=torch.float64) + 0.01
        groups = torch.randint(0, 3, (20,), generator=make)
        found = soft_nms(boxes, scores, groups, kind, 0.4, 0.5, top_k)
        torch.testing.assert_close(found, by_loop(boxes, scores, groups, kind, 0.4, 0.5, top_k), rtol=0, atol=1e-12)
        best = batched_nms(boxes, scores, groups, 0.4)[0]
        assert found[best] == scores[best]
    assert soft_nms(boxes[:0], scores[:0], groups[:0], kind).shape == (0,)
