"""Losses whose target is how well a box lies, against their formulas by loops over images and pairs."""

from __future__ import annotations

import math

import pytest
import torch

from detrex_ext.criterion import (
    GIoUAwareLoss,
    MatchabilityLoss,
    PositionLoss,
    SetCriterion,
    Supervision,
    detr_rule,
)
from detrex_ext.layers.box_ops import EPS, box_cxcywh_to_xyxy, giou_of_corners, iou_of_corners
from detrex_ext.matching import stack_sets
from detrex_ext.structures import Assignment, Pairs, SupervisedSet, Targets

B, Q, K, SETS = 3, 6, 4, 2
COUNTS = {"none": (0, 0, 0), "one": (0, 1, 0), "many": (3, 0, 4)}
WEIGHTS = [None, 0.5]


def scene(counts, dtype=torch.float64, scale=2.0, spread=0.1):
    """Sets whose first queries lie about the objects of their image, each paired with one."""
    torch.manual_seed(1)
    boxes = tuple(0.3 + 0.3 * torch.rand(n, 4, dtype=dtype) for n in counts)
    labels = tuple(torch.randint(0, K, (n,)) for n in counts)
    targets = Targets(labels, boxes, torch.ones(B, 2))
    sets, rows = [], []
    for n in range(SETS):
        predicted = 0.2 + 0.4 * torch.rand(B, Q, 4, dtype=dtype)
        for image, own in enumerate(boxes):
            predicted[image, : len(own)] = own + spread * (torch.rand(len(own), 4, dtype=dtype) - 0.5)
            start = int(targets.offsets_B[image])
            rows += [(n, image, (g + n) % len(own), start + g) for g in range(len(own))]
        logits = (scale * torch.randn(B, Q, K, dtype=dtype)).requires_grad_()
        sets.append(SupervisedSet(logits, predicted.requires_grad_(), n))
    return sets, targets, torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T


def supervision(sets, targets, index, weight=None, valid=None):
    pairs = Pairs(*index, weight, valid)
    return Supervision(stack_sets(sets), Assignment(pairs, pairs), targets)


def overlap(kind, s, targets, row):
    _, image, query, gt = row
    sides = (box_cxcywh_to_xyxy(x.detach()).unbind(-1) for x in (s.boxes_BQ4[image, query], targets.boxes_G4[gt]))
    return giou_of_corners(*sides, EPS) if kind == "giou" else iou_of_corners(*sides, EPS)[0]


def position_target(s, targets, own, row):
    """IoU^2 over the largest of the image, which is 1 for the best of them."""
    best = max(overlap("iou", s, targets, other) ** 2 for other in own if other[1] == row[1])
    return overlap("iou", s, targets, row) ** 2 * max(1 / (best + 1e-8), 1)


def giou_target(s, targets, own, row):
    return (overlap("giou", s, targets, row) + 1) / 2


def by_loops(sets, targets, index, target, alpha, gamma, weight=1.0):
    sums = []
    for n, s in enumerate(sets):
        p = s.logits_BQK.sigmoid()
        value = -(1 - alpha) * p**gamma * (1 - p).log()
        own = [row for row in index.T.tolist() if row[0] == n]
        for row in own:
            at = tuple(torch.tensor([x]) for x in (row[1], row[2], int(targets.labels_G[row[3]])))
            t = target(s, targets, own, row)
            cost = alpha * (t - p[at]).abs() ** gamma * (-t * p[at].log() - (1 - t) * (1 - p[at]).log())
            value = value.index_put(at, weight * cost)
        sums.append(value.sum())
    return torch.stack(sums)


LOSSES = {
    "position": (PositionLoss(), position_target, 0.25, 2.0),
    "position, others": (PositionLoss(0.4, 1.5), position_target, 0.4, 1.5),
    "GIoU": (GIoUAwareLoss(), giou_target, 0.25, 2.0),
    "GIoU, others": (GIoUAwareLoss(0.4, 1.5), giou_target, 0.4, 1.5),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("counts", COUNTS.values(), ids=list(COUNTS))
@pytest.mark.parametrize("choice", LOSSES)
def test_equals_the_formula_and_its_gradient(choice, counts, weight):
    loss, target, alpha, gamma = LOSSES[choice]
    sets, targets, index = scene(counts)
    weight_P = None if weight is None else torch.full((index.shape[1],), weight, dtype=torch.float64)
    found = loss(supervision(sets, targets, index, weight_P))
    wanted = by_loops(sets, targets, index, target, alpha, gamma, weight or 1.0)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    mix = torch.tensor([1.0, -0.7], dtype=torch.float64)
    inputs = [x for s in sets for x in (s.logits_BQK, s.boxes_BQ4)]
    ours = torch.autograd.grad((found * mix).sum(), inputs, allow_unused=True)
    theirs = torch.autograd.grad((wanted * mix).sum(), inputs[::2])
    assert ours[1::2] == (None,) * SETS, "boxes get no gradient from a target"
    for a, b in zip(ours[::2], theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_numbers_by_hand():
    """An object, a box with IoU 0.6 and GIoU 0.6 that is sure of it to 3/4, and one query and class more at 1/2."""
    boxes = torch.tensor([[[0.6, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]]], dtype=torch.float64)
    logits = torch.tensor([[[math.log(3)], [0.0]]], dtype=torch.float64)
    own = (torch.tensor([[0.5, 0.5, 0.4, 0.4]], dtype=torch.float64),)
    targets = Targets((torch.tensor([0]),), own, torch.ones(1, 2))
    s = supervision([SupervisedSet(logits, boxes, 0)], targets, torch.zeros(4, 1, dtype=torch.int64))
    focal = 0.129965  # 3/4 1/2^2 log 2
    wanted = {
        MatchabilityLoss(): 0.875705 + 0.245065,  # of the target 0.6^1.5 = 0.464758; 1/2^1.5 log 2
        PositionLoss(): 0.004495 + focal,  # 1/4 1/4^2 log 4/3
        GIoUAwareLoss(): 0.000317 + focal,  # of the target 0.8
    }
    for loss, value in wanted.items():
        assert loss(s).item() == pytest.approx(value, abs=2e-6)


def test_the_best_box_of_each_image_and_set_has_the_target_one():
    sets, targets, index = scene(COUNTS["many"])
    target_P = PositionLoss().target(supervision(sets, targets, index))
    assert target_P.min() > 0 and target_P.max() <= 1
    for n in range(SETS):
        for image in (0, 2):
            mine = target_P[(index[0] == n) & (index[1] == image)]
            assert mine.max() == pytest.approx(1.0, abs=1e-6) and (mine < 1 - 1e-3).any()
    # an image that nothing hits has no target at all, whatever others have
    away = [SupervisedSet(s.logits_BQK, s.boxes_BQ4.detach().clone(), s.stage) for s in sets]
    away[0].boxes_BQ4[0] = 0.01
    target_P = PositionLoss().target(supervision(away, targets, index))
    missed = (index[0] == 0) & (index[1] == 0)
    assert (target_P[missed] == 0).all() and (target_P[~missed] > 0).all()


@pytest.mark.parametrize("loss", [PositionLoss(), GIoUAwareLoss()])
def test_a_place_that_is_no_pair_counts_nowhere(loss):
    sets, targets, index = scene(COUNTS["many"])
    valid = torch.arange(index.shape[1]) % 3 > 0
    best = int(PositionLoss().target(supervision(sets, targets, index)).argmax())
    valid[best] = False
    found = loss(supervision(sets, targets, index, valid=valid))
    torch.testing.assert_close(found, loss(supervision(sets, targets, index[:, valid])), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [PositionLoss(), GIoUAwareLoss()])
def test_finite_at_extreme_logits_and_empty_boxes(loss, dtype):
    for x in (-1e4, -200.0, 0.0, 200.0, 1e4):
        for empty in (False, True):
            sets, targets, index = scene(COUNTS["many"], dtype)
            one = [
                SupervisedSet(torch.full_like(s.logits_BQK, x).requires_grad_(), s.boxes_BQ4 * (not empty), s.stage)
                for s in sets
            ]
            value = loss(supervision(one, targets, index))
            grads = torch.autograd.grad(value.sum(), [s.logits_BQK for s in one])
            assert value.isfinite().all() and all(g.isfinite().all() for g in grads)


def test_single_precision_under_autocast_and_bad_numbers():
    rule = detr_rule()
    rule.terms["class"].loss = PositionLoss()
    sets, targets, _ = scene(COUNTS["many"], torch.float32)
    half = [SupervisedSet(s.logits_BQK.bfloat16(), s.boxes_BQ4.detach(), s.stage) for s in sets]
    wide = [SupervisedSet(s.logits_BQK.bfloat16().float(), s.boxes_BQ4.detach(), s.stage) for s in sets]
    with torch.autocast("cpu", torch.bfloat16):
        found = SetCriterion([rule])(half, targets)["loss_class"]
    torch.testing.assert_close(found, SetCriterion([rule])(wide, targets)["loss_class"], rtol=1e-6, atol=0)
    for loss in (PositionLoss, GIoUAwareLoss):
        with pytest.raises(ValueError, match="gamma must be at least 1"):
            loss(gamma=0.5)
        with pytest.raises(ValueError, match="eps must not be negative"):
            loss(eps=-1e-6)
