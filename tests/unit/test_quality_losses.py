"""IoU-aware classification against its formula with logarithms of probabilities."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.criterion import AlignedLoss, NumObjects, Supervision
from detrex_ext.layers.box_ops import TINY, box_cxcywh_to_xyxy, iou_of_corners
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


def by_formula(sets, weight, alpha, gamma):
    """Cross-entropy of every (query, class) entry as the paper writes it."""
    sums = []
    for n, s in enumerate(sets):
        p = s.logits_BQK.sigmoid()
        towards_one, towards_zero = torch.zeros_like(p), p**gamma
        for i, (m, b, q, g) in enumerate(INDEX.T.tolist()):
            if m != n:
                continue
            sides = (box_cxcywh_to_xyxy(x.detach()).unbind(-1) for x in (s.boxes_BQ4[b, q], BOXES[g]))
            t = p[b, q, TARGETS.labels_G[g]] ** alpha * iou_of_corners(*sides, 0.0)[0] ** (1 - alpha)
            t = t.detach().clamp(min=0.01) * (1.0 if weight is None else weight[i])
            towards_one[b, q, TARGETS.labels_G[g]] = t
            towards_zero[b, q, TARGETS.labels_G[g]] = 1 - t
        sums.append((-towards_one * p.log() - towards_zero * (1 - p).log()).sum())
    return torch.stack(sums)


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.5, 1.5)])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=torch.float64)])
def test_equals_the_formula_and_its_gradient(alpha, gamma, weight):
    sets, s = supervise(weight)
    found, wanted = AlignedLoss(alpha, gamma)(s), by_formula(sets, weight, alpha, gamma)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    logits = [x.logits_BQK for x in sets]
    mix = torch.tensor([1.0, -0.7], dtype=torch.float64)
    ours = torch.autograd.grad((found * mix).sum(), logits, retain_graph=True)
    for a, b in zip(ours, torch.autograd.grad((wanted * mix).sum(), logits), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_boxes_get_no_gradient_from_the_target():
    sets, s = supervise()
    grads = torch.autograd.grad(AlignedLoss()(s).sum(), [x.boxes_BQ4 for x in sets], allow_unused=True)
    assert grads == (None, None)


def test_a_place_that_is_no_pair_stays_a_negative():
    valid = torch.tensor([True, False, True, False])
    _, s = supervise(valid=valid)
    pairs = Pairs(*INDEX[:, valid])
    tight = Supervision(s.stack, Assignment(pairs, pairs), TARGETS)
    torch.testing.assert_close(AlignedLoss()(s), AlignedLoss()(tight), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_extreme_logits_and_empty_boxes(dtype):
    for x in (-1e4, -200.0, 0.0, 200.0, 1e4):
        logits = torch.full((B, Q, K), x, dtype=dtype, requires_grad=True)
        one = SupervisedSet(logits, torch.zeros(B, Q, 4, dtype=dtype), 0, given=Given())
        pairs = Pairs(*INDEX[:, INDEX[0] == 0])
        s = Supervision(stack_sets([one]), Assignment(pairs, pairs), TARGETS)
        loss = AlignedLoss()(s)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all() and grad.isfinite().all()
        # the target is the floor, 0.01: a sure positive costs 0.99 x, a sure negative 0.01 x
        background = (B * Q * K - 3) * max(x, 0.0)
        wanted = 3 * (0.99 * max(x, 0.0) + 0.01 * max(-x, 0.0)) + background
        if x:
            assert loss.item() == pytest.approx(wanted, rel=1e-5)


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
