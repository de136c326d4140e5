"""Costs against their formulas, one pair at a time."""

import math

import pytest
import torch

from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, generalized_box_iou_elementwise
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost, SoftmaxClassCost, stack_sets
from detrex_ext.matching.costs import candidates
from detrex_ext.structures import SupervisedSet, Targets

N, B, Q, K = 2, 3, 4, 5
COUNTS = (2, 0, 3)


def problem(match_boxes=False):
    torch.manual_seed(0)
    sets = []
    for stage in range(N):
        other = torch.rand(B, Q, 4) if match_boxes else None
        sets.append(SupervisedSet(torch.randn(B, Q, K), torch.rand(B, Q, 4), stage, match_boxes_BQ4=other))
    labels = tuple(torch.randint(0, K, (n,)) for n in COUNTS)
    return sets, Targets(labels, tuple(torch.rand(n, 4) for n in COUNTS), torch.ones(B, 2))


def focal(x, k, box, gt):
    p = 1 / (1 + math.exp(-x[k]))
    return -0.3 * (1 - p) ** 1.5 * math.log(p + 1e-8) + 0.7 * p**1.5 * math.log(1 - p + 1e-8)


def softmax(x, k, box, gt):
    return -math.exp(x[k]) / sum(math.exp(v) for v in x)


def l1(x, k, box, gt):
    return sum(abs(a - b) for a, b in zip(box, gt, strict=True))


def l1_of_corners(x, k, box, gt):
    return l1(x, k, *(box_cxcywh_to_xyxy(torch.tensor(b)).tolist() for b in (box, gt)))


def giou(x, k, box, gt):
    return -generalized_box_iou_elementwise(*(box_cxcywh_to_xyxy(torch.tensor(b)) for b in (box, gt))).item()


@pytest.mark.parametrize(
    ("cost", "formula"),
    [
        (FocalClassCost(2.0, alpha=0.3, gamma=1.5), focal),
        (SoftmaxClassCost(2.0), softmax),
        (L1Cost(2.0), l1),
        (L1Cost(2.0, xyxy=True), l1_of_corners),
        (GIoUCost(2.0), giou),
    ],
)
def test_cost_of_every_pair(cost, formula):
    sets, targets = problem()
    found = cost(candidates(stack_sets(sets), targets))
    assert found.shape == (N, targets.num, Q)
    for n, s in enumerate(sets):
        for g, image in enumerate(targets.image_G.tolist()):
            for q in range(Q):
                x, box = s.logits_BQK[image, q].tolist(), s.boxes_BQ4[image, q].tolist()
                expected = 2 * formula(x, int(targets.labels_G[g]), box, targets.boxes_G4[g].tolist())
                assert found[n, g, q].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_total_is_the_sum_whatever_the_chunk(monkeypatch):
    sets, targets = problem()
    stack = stack_sets(sets)
    matcher = HungarianMatcher(costs=[FocalClassCost(2.0), L1Cost(5.0), GIoUCost(2.0)])
    expected = sum(cost(candidates(stack, targets)) for cost in matcher.costs)
    for cached in (1, 2 * N * Q, 10**6):
        monkeypatch.setattr("detrex_ext.matching.hungarian.CACHED", cached)
        torch.testing.assert_close(matcher.cost(stack, targets), expected)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_objects_have_no_costs(device):
    s = SupervisedSet(torch.zeros(2, Q, K, device=device), torch.zeros(2, Q, 4, device=device), 0)
    nothing = Targets((torch.zeros(0, dtype=torch.int64),) * 2, (torch.zeros(0, 4),) * 2, torch.ones(2, 2)).to(device)
    assert HungarianMatcher().cost(stack_sets([s]), nothing).shape == (1, 0, Q)


def test_matchers_look_at_the_named_boxes_while_losses_keep_their_own():
    sets, targets = problem(match_boxes=True)
    stack = stack_sets(sets)
    named = stack_sets([SupervisedSet(s.logits_BQK, s.match_boxes_BQ4, s.stage) for s in sets])
    expected = L1Cost()(candidates(named, targets))
    torch.testing.assert_close(L1Cost()(candidates(stack, targets)), expected)
    assert torch.equal(stack.boxes_NBQ4[0], sets[0].boxes_BQ4)


def test_half_precision_predictions_are_stacked_in_fp32():
    s = SupervisedSet(torch.randn(1, 2, 3).bfloat16(), torch.rand(1, 2, 4).half(), 0)
    stack = stack_sets([s, s])
    assert stack.logits_NBQK.dtype == stack.boxes_NBQ4.dtype == torch.float32


def test_one_set_is_not_copied():
    s = SupervisedSet(torch.randn(1, 2, 3), torch.rand(1, 2, 4), 0)
    assert stack_sets([s]).logits_NBQK.data_ptr() == s.logits_BQK.data_ptr()
