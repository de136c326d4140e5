"""One-to-many matching: several queries answer for an object.

Shape legend: N sets, B images, Q queries of a set, G objects of the batch (flat), M most objects of an image, k places
of an object, P pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detrex_ext.layers.box_ops import TINY, corners, iou_of_corners
from detrex_ext.structures import Assignment, Pairs, Targets

from .base import HostProblem, Matcher
from .costs import candidates
from .stack import Stack

NEVER = -1.0  # below any score


def aligned_quality(prob: Tensor, iou: Tensor, alpha: float, floor: float = 0.01) -> Tensor:
    """How well class and box of a pair agree with its object: max(prob^alpha iou^(1 - alpha), floor), elementwise."""
    return (prob**alpha * iou.clamp(min=0) ** (1 - alpha)).clamp(min=floor)


class OneToManyMatcher(Matcher):
    """DAC-DETR's rule: an object is answered for by its best queries, as many as prefer it to all other objects.

    A pair scores ``w_iou`` IoU + ``w_cls`` p. Each query belongs to the object of its image that it scores highest
    with, and is a candidate from ``threshold`` on; every object's best query is one in any case, of the object that it
    belongs to. An object with n candidates takes the best min(n, k) of *all* queries. One without any takes none.
    Equal scores: the lower index wins. Scores are compared in fp32. Nothing is copied to the host: each object has k
    places, and those not taken are marked in ``Pairs.valid_P``.

    Args:
        k: most queries of an object.
        threshold: least score of a candidate.
        w_iou, w_cls: weights of the two parts of a score. Boxes are ``match_boxes`` of the sets, where they name any.
        cap: at most this many candidates per image, drawn at random: how many queries an object takes may change, not
            which come first. None: no limit.
        conflict: what becomes of a query that several objects take. ``"multi"``: its box answers for all of them, and
            of objects of one class the best score sets the class target. ``"best"``: it stays with its best score.
        tau: a pair's weight is exp(-rank / tau), ranked among its object's by :func:`aligned_quality` of the set's own
            boxes (Align-DETR, arXiv 2304.07527, section 3.3). None: all weights are one.
        alpha: of that quality.
    """

    def __init__(
        self,
        k: int = 6,
        threshold: float = 0.4,
        w_iou: float = 0.7,
        w_cls: float = 0.3,
        cap: int | None = 75,
        conflict: str = "multi",
        tau: float | None = None,
        alpha: float = 0.25,
    ) -> None:
        if k < 1 or (cap is not None and cap < 1):
            raise ValueError(f"k and cap must be at least 1 (cap may be None), got k={k}, cap={cap}")
        if threshold < 0 or w_iou < 0 or w_cls < 0 or (tau is not None and tau <= 0):
            raise ValueError("threshold, w_iou and w_cls must not be negative, and tau must be positive or None")
        if conflict not in ("multi", "best"):
            raise ValueError(f"conflict must be 'multi' or 'best', got '{conflict}'")
        self.k, self.threshold, self.w_iou, self.w_cls = k, threshold, w_iou, w_cls
        self.cap, self.conflict, self.tau, self.alpha = cap, conflict, tau, alpha

    def __repr__(self) -> str:
        return f"OneToManyMatcher({', '.join(f'{k}={v}' for k, v in vars(self).items())})"

    @torch.no_grad()
    def match(self, stack: Stack, targets: Targets) -> Assignment:
        """See :meth:`Matcher.match`. Queries that the source marked invalid are never taken."""
        N, B, Q, K = stack.shape
        G, k = targets.num, min(self.k, Q)
        if not G or not k:
            return Assignment(Pairs.empty(stack.device), Pairs.empty(stack.device))
        seen = candidates(stack, targets)
        prob_NGQ = seen.prob()
        score_NGQ = (self.w_iou * seen.iou(TINY) + self.w_cls * prob_NGQ).float()
        if stack.given.valid_BQ is not None:
            score_NGQ = score_NGQ.masked_fill(~stack.given.valid_BQ[targets.image_G], NEVER)
        query_NGk, score_NGk = _best(score_NGQ, k)
        place_k = torch.arange(k, device=stack.device)
        valid_NGk = place_k < self._counts(score_NGQ, targets)[..., None]

        def spread(x: Tensor) -> Tensor:
            return x.expand(N, G, k).flatten()

        set_P = spread(torch.arange(N, device=stack.device)[:, None, None])
        img_P, gt_P = (spread(x[:, None]) for x in (targets.image_G, torch.arange(G, device=stack.device)))
        query_P, score_P, valid_P = query_NGk.flatten(), score_NGk.flatten(), valid_NGk.flatten()
        row_P = (set_P * B + img_P) * Q + query_P
        # a softmax has one class per query; a sigmoid one answer per query and class
        entry_P = row_P if stack.softmax else row_P * K + targets.labels_G[gt_P]
        if self.conflict == "best":
            valid_P = valid_P & _first_of_each(row_P, score_P.where(valid_P, NEVER))
            only_P = valid_P
        else:
            only_P = valid_P & _first_of_each(entry_P, score_P.where(valid_P, NEVER))
        weight_P = None
        if self.tau is not None:
            own_P4, true_P4 = stack.boxes_NBQ4.reshape(-1, 4)[row_P], targets.boxes_G4[gt_P]
            quality_P = self._quality(prob_NGQ.gather(2, query_NGk).flatten(), own_P4, true_P4.to(own_P4.dtype))
            rank_NGk = _rank(quality_P.where(valid_P, NEVER).view(N, G, k))
            weight_P = torch.exp(rank_NGk.to(prob_NGQ.dtype) / -self.tau).flatten()
        cls, box = (Pairs(set_P, img_P, query_P, gt_P, weight_P, v) for v in (only_P, valid_P))
        return Assignment(cls, box)

    def _quality(self, prob_P: Tensor, own_P4: Tensor, true_P4: Tensor) -> Tensor:
        return aligned_quality(prob_P, iou_of_corners(corners(own_P4), corners(true_P4), TINY)[0], self.alpha)

    def _counts(self, score_NGQ: Tensor, targets: Targets) -> Tensor:
        """(N, G) candidates that belong to each object."""
        (N, G, Q), image_G = score_NGQ.shape, targets.image_G
        within_G = torch.arange(G, device=image_G.device) - targets.offsets_B[image_G]
        score_NBMQ = score_NGQ.new_full((N, len(targets.counts), max(targets.counts), Q), NEVER)
        score_NBMQ[:, image_G, within_G] = score_NGQ
        best_NBQ, owner_NBQ = score_NBMQ.max(2)  # the first of equal ones
        chosen_NBQ = best_NBQ >= self.threshold
        sets = torch.arange(N, device=image_G.device)[:, None]
        chosen_NBQ[sets, image_G, score_NGQ.argmax(-1)] = True
        chosen_NBQ &= best_NBQ >= 0
        if self.cap is not None and self.cap < Q:
            lot = torch.rand(best_NBQ.shape, device=image_G.device).masked_fill_(~chosen_NBQ, NEVER)
            drawn = torch.zeros_like(chosen_NBQ).scatter_(2, lot.topk(self.cap, -1).indices, True)
            chosen_NBQ &= drawn
        count_NBM = owner_NBQ.new_zeros(score_NBMQ.shape[:3]).scatter_add_(2, owner_NBQ, chosen_NBQ.long())
        return count_NBM[:, image_G, within_G]


class RepeatedMatcher(Matcher):
    """Every object as often as ``times``: a fixed number of queries for each, of least total cost (H-DETR, arXiv
    2207.13080, section 3.2).

    Args:
        matcher: one-to-one, decides over the repeated objects.
        times: queries per object; fewer where there are not enough.
    """

    def __init__(self, matcher: Matcher, times: int = 6) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        self.matcher, self.times = matcher, times

    def __repr__(self) -> str:
        return f"RepeatedMatcher({self.matcher}, times={self.times})"

    def match(self, stack: Stack, targets: Targets) -> HostProblem:
        """See :meth:`Matcher.match`."""
        labels = tuple(x.repeat_interleave(self.times) for x in targets.labels)
        boxes = tuple(x.repeat_interleave(self.times, 0) for x in targets.boxes)
        problem = self.matcher.match(stack, Targets(labels, boxes, targets.image_hw_B2))

        def solve(arrays: list[np.ndarray]) -> np.ndarray:
            pairs = problem.solve(arrays)
            pairs[3] //= self.times
            return pairs

        return HostProblem(problem.tensors, solve)


def _best(score_NGQ: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best queries of each object and their scores, (N, G, k), best first and of equal ones the first."""
    Q = score_NGQ.shape[-1]
    # one integer per query that orders as (score, -index): the bits of a float that is not negative order as it does
    high = score_NGQ.view(torch.int32).long() << 32
    key_NGk = (high + torch.arange(Q - 1, -1, -1, device=high.device)).topk(k, -1).values
    query_NGk = Q - 1 - (key_NGk & 0xFFFFFFFF)
    return query_NGk, score_NGQ.gather(2, query_NGk)


def _first_of_each(key_P: Tensor, score_P: Tensor) -> Tensor:
    """Whether a pair has the best score of all with its key; of equal ones the first."""
    order = score_P.argsort(descending=True, stable=True)
    order = order[key_P[order].argsort(stable=True)]
    key = key_P[order]
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return torch.empty_like(first).scatter_(0, order, first)


def _rank(value_NGk: Tensor) -> Tensor:
    """Places from 0 on by descending value; equal ones in order."""
    return value_NGk.argsort(dim=-1, descending=True, stable=True).argsort(-1)
