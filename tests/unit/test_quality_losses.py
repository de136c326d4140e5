"""IoU-aware classification against its formula with logarithms of probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detrex_ext.criterion import (
    AlignedLoss,
    MatchabilityLoss,
    NumObjects,
    QualityFocalLoss,
    SetCriterion,
    Supervision,
    VarifocalLoss,
    detr_rule,
)
from detrex_ext.layers.box_ops import TINY, box_cxcywh_to_xyxy, iou_of_corners
from detrex_ext.layers.cpu import switched
from detrex_ext.matching import stack_sets
from detrex_ext.structures import Assignment, Given, Pairs, SupervisedSet, Targets

B, Q, K = 2, 5, 3
BOXES = torch.tensor([[0.4, 0.5, 0.2, 0.3], [0.6, 0.5, 0.3, 0.2], [0.5, 0.3, 0.2, 0.2]], dtype=torch.float64)
TARGETS = Targets((torch.tensor([2]), torch.tensor([0, 1])), (BOXES[:1], BOXES[1:]), torch.ones(B, 2))
INDEX = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [3, 0, 4, 2], [0, 1, 2, 2]])


def supervise(weight=None, valid=None, scale=2.0, dtype=torch.float64):
    torch.manual_seed(0)
    sets = []
    for stage in range(2):
        logits = (torch.randn(B, Q, K, dtype=dtype) * scale).requires_grad_()
        boxes = BOXES[[0, 1]][:, None].to(dtype) + 0.1 * (torch.rand(B, Q, 4, dtype=dtype) - 0.5)
        sets.append(SupervisedSet(logits, boxes.requires_grad_(), stage))
    pairs = Pairs(*INDEX, weight, valid)
    return sets, Supervision(stack_sets(sets), Assignment(pairs, pairs), TARGETS)


def by_formula(sets, positive, background, weight=None):
    """Every entry as a paper writes it: ``positive(p, iou, weight)`` of a pair, ``background(p)`` elsewhere."""
    sums = []
    for n, s in enumerate(sets):
        p = s.logits_BQK.sigmoid()
        value = background(p)
        for i, (m, b, q, g) in enumerate(INDEX.T.tolist()):
            if m != n:
                continue
            sides = (box_cxcywh_to_xyxy(x.detach()).unbind(-1) for x in (s.boxes_BQ4[b, q], BOXES[g]))
            iou = iou_of_corners(*sides, 0.0)[0]
            at = torch.tensor([[b], [q], [TARGETS.labels_G[g]]]).unbind()
            value = value.index_put(at, positive(p[at], iou, 1.0 if weight is None else weight[i]))
        sums.append(value.sum())
    return torch.stack(sums)


def entropy(p, target):
    return -target * p.log() - (1 - target) * (1 - p).log()


def aligned(alpha, gamma):
    def positive(p, iou, weight):
        return entropy(p, (p**alpha * iou ** (1 - alpha)).detach().clamp(min=0.01) * weight)

    return AlignedLoss(alpha, gamma), positive, lambda p: p**gamma * entropy(p, 0.0)


def varifocal(alpha, gamma):
    def positive(p, iou, weight):
        return weight * iou * entropy(p, iou) if iou > 0 else alpha * p**gamma * entropy(p, 0.0)

    return VarifocalLoss(alpha, gamma), positive, lambda p: alpha * p**gamma * entropy(p, 0.0)


def quality_focal(beta):
    def positive(p, iou, weight):
        return weight * (iou - p).abs() ** beta * entropy(p, iou)

    return QualityFocalLoss(beta), positive, lambda p: p**beta * entropy(p, 0.0)


def matchability(gamma):
    def positive(p, iou, weight):
        return weight * entropy(p, iou**gamma)

    return MatchabilityLoss(gamma), positive, lambda p: p.detach() ** gamma * entropy(p, 0.0)


CHOICES = {
    "aligned": aligned(0.25, 2.0),
    "aligned, others": aligned(0.5, 1.5),
    "varifocal": varifocal(0.75, 2.0),
    "varifocal, others": varifocal(0.5, 1.5),
    "quality focal": quality_focal(2.0),
    "quality focal, others": quality_focal(1.5),
    "matchability": matchability(1.5),
    "matchability, others": matchability(2.0),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=torch.float64)])
def test_equals_the_formula_and_its_gradient(choice, weight):
    loss, *formula = CHOICES[choice]
    sets, s = supervise(weight)
    assert s.cls_iou_P[:3].min() > 0 and s.cls_iou_P[3] == 0  # a box that misses its object
    found, wanted = loss(s), by_formula(sets, *formula, weight)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    logits = [x.logits_BQK for x in sets]
    mix = torch.tensor([1.0, -0.7], dtype=torch.float64)
    ours = torch.autograd.grad((found * mix).sum(), logits, retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad((wanted * mix).sum(), logits), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [AlignedLoss(alpha=0.0), VarifocalLoss(), QualityFocalLoss()])
def test_the_gradient_is_the_slope(loss):
    """Where the target does not depend on the logit."""
    sets, s = supervise()

    def of_logits(*logits):
        stack = stack_sets([replace(x, logits_BQK=y) for x, y in zip(sets, logits, strict=True)])
        return loss(Supervision(stack, s.assignment, TARGETS))

    assert torch.autograd.gradcheck(of_logits, [x.logits_BQK for x in sets])


@pytest.mark.parametrize("kernel", [False, True])
def test_a_weight_of_negatives_without_gradient_is_the_same_with_and_without_the_kernel(kernel):
    loss, *formula = CHOICES["matchability"]
    sets, s = supervise()
    logits = [x.logits_BQK for x in sets]
    with switched(kernel):
        found = loss(s)
    wanted = by_formula(sets, *formula)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(x.sum(), logits) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [AlignedLoss(), VarifocalLoss(), QualityFocalLoss(), MatchabilityLoss()])
def test_boxes_get_no_gradient_from_the_target(loss):
    sets, s = supervise()
    grads = torch.autograd.grad(loss(s).sum(), [x.boxes_BQ4 for x in sets], allow_unused=True)
    assert grads == (None, None)


def test_a_place_that_is_no_pair_stays_a_negative():
    valid = torch.tensor([True, False, True, False])
    _, s = supervise(valid=valid)
    pairs = Pairs(*INDEX[:, valid])
    tight = Supervision(s.stack, Assignment(pairs, pairs), TARGETS)
    torch.testing.assert_close(AlignedLoss()(s), AlignedLoss()(tight), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missed", [False, True])
def test_finite_at_extreme_logits_and_empty_boxes(dtype, missed):
    pairs = Pairs(*INDEX[:, INDEX[0] == 0])
    boxes = torch.zeros(B, Q, 4, dtype=dtype)
    if not missed:
        boxes[INDEX[1, :3], INDEX[2, :3]] = BOXES[INDEX[3, :3]].to(dtype)
    # what a positive costs per unit of a logit that is sure of the object, and of one that is sure of none
    costs = {
        AlignedLoss(): (0.99 if missed else 0.0, 0.01, 1.0),  # who denies has the floor as a target
        VarifocalLoss(): (0.75, 0.0, 0.75) if missed else (0.0, 1.0, 0.75),
        QualityFocalLoss(): (1.0, 0.0, 1.0) if missed else (0.0, 1.0, 1.0),
        MatchabilityLoss(): (1.0, 0.0, 1.0) if missed else (0.0, 1.0, 1.0),
    }
    for loss, (sure, denied, background) in costs.items():
        for x in (-1e4, -200.0, 0.0, 200.0, 1e4):
            logits = torch.full((B, Q, K), x, dtype=dtype, requires_grad=True)
            one = SupervisedSet(logits, boxes, 0, given=Given())
            value = loss(Supervision(stack_sets([one]), Assignment(pairs, pairs), TARGETS))
            (grad,) = torch.autograd.grad(value.sum(), logits)
            assert value.isfinite().all() and grad.isfinite().all()
            wanted = 3 * (sure * max(x, 0.0) + denied * max(-x, 0.0)) + (B * Q * K - 3) * background * max(x, 0.0)
            if x:
                assert value.item() == pytest.approx(wanted, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("loss", [AlignedLoss(), VarifocalLoss(), QualityFocalLoss(), MatchabilityLoss()])
def test_losses_are_single_precision_under_autocast(loss):
    rule = detr_rule()
    rule.terms["class"].loss = loss
    logits = (20 * torch.randn(B, Q, K)).bfloat16().requires_grad_()
    one = SupervisedSet(logits, BOXES[[0, 1]][:, None].float().expand(B, Q, 4), 0)
    targets = Targets(TARGETS.labels, tuple(x.float() for x in TARGETS.boxes), TARGETS.image_hw_B2)
    with torch.autocast("cpu", torch.bfloat16):
        found = SetCriterion([rule])([one], targets)["loss_class"]
    wide = replace(one, logits_BQK=logits.detach().float().requires_grad_())
    wanted = SetCriterion([rule])([wide], targets)["loss_class"]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    found.backward(), wanted.backward()
    torch.testing.assert_close(logits.grad, wide.logits_BQK.grad.bfloat16())


def test_the_target_is_the_pairs_own_box():
    sets, s = supervise()
    rows = [(n, b, q, g) for n, b, q, g in INDEX.T.tolist()]
    wanted = [
        iou_of_corners(*(box_cxcywh_to_xyxy(x).unbind(-1) for x in (sets[n].boxes_BQ4[b, q], BOXES[g])), TINY)[0]
        for n, b, q, g in rows
    ]
    torch.testing.assert_close(s.cls_iou_P, torch.stack(wanted).detach())


def test_objects_may_count_several_times():
    _, s = supervise()
    counts = NumObjects(3.0)
    assert counts.count(s) == 9 and counts.total(s, (20.0, 4.0)) == 60 and counts.finish(0.0) == 1
