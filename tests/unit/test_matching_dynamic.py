"""A rule of one's own in which the IoU decides how many queries an object takes (YOLOX's simplified OTA)."""

from __future__ import annotations

from itertools import product

import torch
from by_loops import as_dict, iou, problem

from detrex_ext.layers.box_ops import TINY
from detrex_ext.matching import ScoreMatcher, candidates


class DynamicK(ScoreMatcher):
    """Best by class, as many as the sum of the object's three highest IoUs says, one at least."""

    def score(self, stack, targets):
        return candidates(stack, targets).prob()

    def counts_of(self, stack, score_NGQ, targets):
        iou_NGQ = candidates(stack, targets).iou(TINY)
        return iou_NGQ.topk(min(3, iou_NGQ.shape[-1]), -1).values.sum(-1).long().clamp(min=1)


def test_the_number_of_queries_follows_the_iou():
    sizes = set()
    for seed in range(10):
        stack, targets = problem((3, 1), 12, seed, dtype=torch.float64, spread=0.05)
        found = as_dict(DynamicK(k=3).match(stack, targets).box)
        objects = [(b, *one) for b in range(2) for one in zip(targets.labels[b], targets.boxes[b], strict=True)]
        for (n, s), (g, (b, label, box)) in product(enumerate(stack.sets), enumerate(objects)):
            best = sorted((iou(q, box.tolist()) for q in s.boxes_BQ4[b].tolist()), reverse=True)[:3]
            k = max(int(sum(best)), 1)
            prob = s.logits_BQK[b, :, label].sigmoid().float().tolist()
            wanted = sorted(range(12), key=lambda q, p=prob: (-p[q], q))[:k]
            assert {q for m, i, q, gt in found if (m, i, gt) == (n, b, g)} == set(wanted)
            sizes.add(k)
    assert sizes == {1, 2}


def test_a_rule_that_counts_by_scores_alone_is_as_it_was():
    class Two(ScoreMatcher):
        def score(self, stack, targets):
            return candidates(stack, targets).iou(TINY)

        def counts(self, score_NGQ, targets):
            return torch.full(score_NGQ.shape[:2], 2)

    stack, targets = problem((3, 1), 12)
    assert len(as_dict(Two(k=3).match(stack, targets).box)) == 2 * 4 * 2
