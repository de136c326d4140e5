"""Losses of hybrid and group queries by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from test_further_queries import K, Q, objects
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from detrex_ext.criterion import SetCriterion, detr_rule, detr_rules, hybrid_rule
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.structures import Given, SupervisedSet


def predictions(seed, queries=Q, classes=K):
    g = torch.Generator().manual_seed(seed)
    boxes = 0.2 + 0.4 * torch.rand(2, queries, 4, generator=g)
    return torch.randn(2, queries, classes, generator=g), boxes


def by_hand(logits, boxes, targets, times):
    """Focal, L1 and GIoU sums of one set over objects that each stand ``times`` times, by definition."""
    sums = torch.zeros(3)
    answered = []
    for x, b, label, gt in zip(logits, boxes, targets.labels, targets.boxes, strict=True):
        label, gt = label.repeat(times), gt.repeat(times, 1)
        p = x.sigmoid()[:, label]
        positive, negative = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log(), 0.75 * p**2 * -(1 - p + 1e-8).log()
        giou = generalized_box_iou(box_cxcywh_to_xyxy(b), box_cxcywh_to_xyxy(gt))
        cost = 2 * (positive - negative) + 5 * torch.cdist(b, gt, p=1) - 2 * giou
        query, column = map(torch.as_tensor, linear_sum_assignment(cost.numpy()))
        wanted = torch.zeros_like(x)
        wanted[query, label[column]] = 1
        sums[0] += sigmoid_focal_loss(x, wanted, reduction="sum")
        sums[1] += (b[query] - gt[column]).abs().sum()
        sums[2] += (1 - giou[query, column]).sum()
        answered.append(torch.bincount(column % max(len(label) // times, 1), minlength=len(label) // times))
    return sums, answered


@pytest.mark.parametrize("times, weight", [(1, 1.0), (3, 1.0), (3, 0.5)])
def test_losses_of_hybrid_queries_by_hand(times, weight):
    targets, (logits, boxes) = objects((3, 0)), predictions(0, 12)
    rules = detr_rules(("main",), class_weight=2.0)
    criterion = SetCriterion({**rules, "hybrid": hybrid_rule(rules["main"], times, weight)})
    found = criterion([SupervisedSet(logits, boxes, i, "hybrid") for i in range(2)], targets)
    sums, answered = by_hand(logits, boxes, targets, times)
    assert answered[0].tolist() == [times] * 3
    expected = 2 * sums * torch.tensor([2.0, 5.0, 2.0]) * weight / (3 * times)
    for name, value in zip(("class", "bbox", "giou"), expected, strict=True):
        torch.testing.assert_close(found[f"loss_{name}_hybrid"], value)


@pytest.mark.parametrize("softmax", [False, True])
def test_losses_of_groups_are_the_mean_over_all_of_them(softmax):
    targets, groups = objects((3, 1)), 3
    rule = detr_rule(softmax=softmax)
    rules = [replace(rule, when={"group": g}) for g in ("main", "group")]
    sets = [SupervisedSet(*predictions(i, classes=K + softmax), 0, softmax=softmax) for i in range(groups)]
    alone = [SetCriterion([rule])([s], targets) for s in sets]
    given = Given(sets=groups)
    tagged = [replace(s, group="group" if i else "main", given=given) for i, s in enumerate(sets)]
    found = SetCriterion(rules)(tagged, targets)
    for term in ("class", "bbox", "giou"):
        mean = sum(losses[f"loss_{term}"] for losses in alone) / groups
        torch.testing.assert_close(found[f"loss_{term}"] + found[f"loss_{term}_group"], mean)
        torch.testing.assert_close(found[f"loss_{term}"], alone[0][f"loss_{term}"] / groups)


def test_sets_that_share_their_loss_lie_beside_one_that_does_not():
    targets, rule = objects((3, 1)), detr_rule()
    alone, shared = SupervisedSet(*predictions(0), 0), SupervisedSet(*predictions(1), 0)
    both = [alone, replace(shared, given=Given(sets=4))]
    one, other, found = (SetCriterion([rule])(sets, targets)["loss_bbox"] for sets in ([alone], [shared], both))
    torch.testing.assert_close(found, one + other / 4)
