"""Costs in which class and box speak of each other, by loops over pairs; and the matcher that changes in a training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from no_values import without_values

from detrex_ext.criterion import GIoUAwareLoss, MatchabilityLoss, PositionLoss, Supervision
from detrex_ext.layers.box_ops import EPS, box_cxcywh_to_xyxy, giou_of_corners, iou_of_corners
from detrex_ext.layers.cpu import switched
from detrex_ext.matching import (
    GIoUCost,
    GivenMatcher,
    HighOrderCost,
    HungarianMatcher,
    L1Cost,
    LateMatcher,
    OneToManyMatcher,
    PositionClassCost,
    RepeatedMatcher,
    candidates,
    resolve,
    stack_sets,
)
from detrex_ext.structures import Assignment, Given, Pairs, SupervisedSet, Targets

N, B, Q, K = 2, 3, 5, 6
COUNTS = {"none": (0, 0, 0), "one": (0, 1, 0), "many": (3, 0, 4)}


def scene(counts, dtype=torch.float64, given=None, softmax=False):
    torch.manual_seed(2)
    boxes = tuple(0.3 + 0.3 * torch.rand(n, 4, dtype=dtype) for n in counts)
    labels = tuple(torch.randint(0, K - 1, (n,)) for n in counts)
    sets = []
    for n in range(N):
        predicted = 0.2 + 0.4 * torch.rand(B, Q, 4, dtype=dtype)
        for image, own in enumerate(boxes):
            predicted[image, : len(own)] = own + 0.1 * torch.rand(len(own), 4, dtype=dtype)
        sets.append(
            SupervisedSet(torch.randn(B, Q, K, dtype=dtype), predicted, n, given=given or Given(), softmax=softmax)
        )
    return sets, Targets(labels, boxes, torch.ones(B, 2))


def overlap(kind, s, targets, image, query, gt):
    sides = [box_cxcywh_to_xyxy(x).unbind(-1) for x in (s.boxes_BQ4[image, query], targets.boxes_G4[gt])]
    return giou_of_corners(*sides, EPS) if kind == "giou" else iou_of_corners(*sides, EPS)[0]


def focal(p):
    return -0.25 * (1 - p) ** 2 * (p + 1e-8).log() + 0.75 * p**2 * (1 - p + 1e-8).log()


def every_pair(sets, targets):
    for n, s in enumerate(sets):
        for gt, image in enumerate(targets.image_G.tolist()):
            for query in range(Q):
                yield n, s, gt, image, query


def position_cost(sets, targets):
    cost = torch.zeros(N, targets.num, Q, dtype=torch.float64)
    for n, s, gt, image, query in every_pair(sets, targets):
        own = [g for g, of in enumerate(targets.image_G.tolist()) if of == image]
        best = max((overlap("giou", s, targets, image, q, g) + 1) / 2 for g in own for q in range(Q))
        u = (overlap("giou", s, targets, image, query, gt) + 1) / 2 * max(1 / (best + 1e-8), 1)
        p = s.logits_BQK[image, query, targets.labels_G[gt]].sigmoid()
        cost[n, gt, query] = 2 * focal(p * u**0.5)
    return cost


def high_order_cost(sets, targets):
    cost = torch.zeros(N, targets.num, Q, dtype=torch.float64)
    for n, s, gt, image, query in every_pair(sets, targets):
        logits, label = s.logits_BQK[image, query], targets.labels_G[gt]
        p = logits.softmax(-1)[label] if s.softmax else logits[label].sigmoid()
        cost[n, gt, query] = -2 * p * overlap("iou", s, targets, image, query, gt) ** 4
    return cost


@pytest.mark.parametrize("counts", COUNTS.values(), ids=list(COUNTS))
@pytest.mark.parametrize("cost, formula, softmax", [
    (PositionClassCost(2.0), position_cost, False),
    (HighOrderCost(2.0), high_order_cost, False),
    (HighOrderCost(2.0), high_order_cost, True),
])  # fmt: skip
def test_cost_of_every_pair(cost, formula, softmax, counts):
    sets, targets = scene(counts, softmax=softmax)
    found = cost(candidates(stack_sets(sets), targets))
    torch.testing.assert_close(found, formula(sets, targets), rtol=1e-10, atol=1e-12)


def test_the_best_box_of_an_image_is_found_whatever_the_chunk(monkeypatch):
    sets, targets = scene(COUNTS["many"])
    matcher = HungarianMatcher([PositionClassCost(2.0), L1Cost(5.0), GIoUCost(2.0)])
    wanted = matcher.cost(stack_sets(sets), targets)
    monkeypatch.setattr("detrex_ext.matching.hungarian.CACHED", 1)
    assert torch.equal(matcher.cost(stack_sets(sets), targets), wanted)


def test_an_image_s_costs_are_its_own():
    sets, targets = scene(COUNTS["many"])
    whole, start = PositionClassCost()(candidates(stack_sets(sets), targets)), 0
    for image, count in enumerate(targets.counts):
        if count:
            mine = [SupervisedSet(s.logits_BQK[[image]], s.boxes_BQ4[[image]], s.stage) for s in sets]
            own = Targets(targets.labels[image : image + 1], targets.boxes[image : image + 1], torch.ones(1, 2))
            alone = PositionClassCost()(candidates(stack_sets(mine), own))
            torch.testing.assert_close(whole[:, start : start + count], alone, rtol=1e-12, atol=0)
        start += count


def test_queries_that_are_none_are_not_the_best_of_an_image():
    valid = torch.ones(B, Q, dtype=torch.bool)
    valid[:, :4] = False  # those about the objects
    (sets, targets), (bare, _) = scene(COUNTS["many"], given=Given(valid_BQ=valid)), scene(COUNTS["many"])
    found = PositionClassCost()(candidates(stack_sets(sets), targets))
    alone = [SupervisedSet(s.logits_BQK[:, 4:], s.boxes_BQ4[:, 4:], s.stage) for s in bare]
    wanted = PositionClassCost()(candidates(stack_sets(alone), targets))
    torch.testing.assert_close(found[..., 4:], wanted, rtol=1e-12, atol=0)


def test_extreme_logits_and_boxes_have_finite_costs():
    sets, targets = scene(COUNTS["many"], torch.float32)
    for x in (-1e4, 1e4):
        for size in (0.0, 1.0):
            odd = [replace(s, logits_BQK=torch.full_like(s.logits_BQK, x), boxes_BQ4=s.boxes_BQ4 * size) for s in sets]
            for cost in (PositionClassCost(), HighOrderCost()):
                assert cost(candidates(stack_sets(odd), targets)).isfinite().all()
    bad = [replace(s, boxes_BQ4=s.boxes_BQ4 * float("nan")) for s in sets]
    for cost in (PositionClassCost(), HighOrderCost()):
        with pytest.raises(FloatingPointError, match="matching cost of group 'main'"):
            resolve([HungarianMatcher([cost]).match(stack_sets(bad), targets)], "cpu")


def pairs_of(matcher, sets, targets, progress):
    pairs = resolve([matcher.match(stack_sets(sets, progress), targets)], "cpu")[0].cls
    return torch.stack([pairs.set_P, pairs.img_P, pairs.query_P, pairs.gt_P])


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_later_matcher_decides_from_its_progress_on(wrapped):
    sets, targets = scene(COUNTS["many"])
    early, late = HungarianMatcher(), HungarianMatcher([HighOrderCost()])
    matchers = early, late, LateMatcher(early, late, since=0.6)
    if wrapped:
        matchers = tuple(RepeatedMatcher(matcher, 2) for matcher in matchers)
    first, then = (pairs_of(matcher, sets, targets, 0.0) for matcher in matchers[:2])
    assert not torch.equal(first, then)
    for progress, wanted in ((0.0, first), (0.5999, first), (0.6, then), (1.0, then)):
        assert torch.equal(pairs_of(matchers[2], sets, targets, progress), wanted)
    outputs = {"pred_logits": sets[0].logits_BQK, "pred_boxes": sets[0].boxes_BQ4}
    own = [{"labels": x, "boxes": y} for x, y in zip(targets.labels, targets.boxes, strict=True)]
    assert all(torch.equal(a, b) for p, q in zip(matchers[2](outputs, own), matchers[0](outputs, own), strict=True)
               for a, b in zip(p, q, strict=True))  # fmt: skip


def test_what_a_late_matcher_refuses():
    for since in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="since is a progress of the training, 0 to 1"):
            LateMatcher(HungarianMatcher(), HungarianMatcher(), since)
    for other in (OneToManyMatcher(), GivenMatcher()):
        with pytest.raises(ValueError, match=f"{type(other).__name__} decides itself how many queries"):
            RepeatedMatcher(LateMatcher(HungarianMatcher(), other), 2)


def test_nothing_is_copied_to_the_host():
    """Neither by the costs nor by the losses that go with them."""
    with without_values(), switched(False):  # the kernel asks for slopes, and those for a real device
        labels, boxes = (torch.zeros(3, *size, device="cuda") for size in ((), (4,)))
        targets = Targets((labels.long(), labels[:0].long()), (boxes, boxes[:0]), torch.ones(2, 2, device="cuda"))
        logits = torch.zeros(2, Q, K, device="cuda")
        stack = stack_sets([SupervisedSet(logits, torch.zeros(2, Q, 4, device="cuda"), 0)])
        for cost in (PositionClassCost(), HighOrderCost()):
            assert cost(candidates(stack, targets)).device.type == "cuda"
        pairs = Pairs(*[labels.long()] * 4, None, labels > 0)
        for loss in (MatchabilityLoss(), PositionLoss(), GIoUAwareLoss()):
            assert loss(Supervision(stack, Assignment(pairs, pairs), targets)).device.type == "cuda"
