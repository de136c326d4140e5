"""One-to-many matching by scores: every object has places, and its best queries take them.

Shape legend: N sets, B images, Q queries of a set, K classes, G objects of the batch (flat), k places of an object,
P pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detrex_ext.layers.box_ops import corners, iou_of_corners
from detrex_ext.structures import Assignment, Pairs, Targets

from .base import Matcher
from .stack import Stack

NEVER = -math.inf  # below any score
CONFLICTS = ("multi", "one_class", "last_class", "best")


def aligned_quality(prob: Tensor, iou: Tensor, alpha: float) -> Tensor:
    """How well class and box of a pair agree with its object: max(prob^alpha iou^(1 - alpha), 0.01), in any shape."""
    return (prob**alpha * iou.clamp(min=0) ** (1 - alpha)).clamp(min=0.01)


class ScoreMatcher(Matcher):
    """Every object takes its best queries, as many as a rule grants it.

    Subclasses answer :meth:`score`, and :meth:`counts` or, where the number depends on more than scores,
    :meth:`counts_of`. Equal scores: the lower index wins. Scores are compared in fp32. Nothing is copied to the host:
    each object has k places, and those not taken are marked in ``Pairs.valid_P``.

    Args:
        k: most queries of an object.
        conflict: what becomes of a query that several objects take. ``"multi"``: its box answers for all of them, and
            of objects of one class the best score sets the class target. ``"one_class"``: likewise, and of all objects
            only the best one sets a class target. ``"last_class"``: likewise, and it is the last one in the order of
            the objects, as in the code of MS-DETR and Mr. DETR on a CPU. ``"best"``: it stays with its best score.
        tau: a pair's weight is exp(-rank / tau), ranked among its object's by :func:`aligned_quality` of the set's own
            boxes (Align-DETR, arXiv 2304.07527, section 3.3). None: all weights are one.
        alpha: of that quality.
    """

    def __init__(self, k: int, conflict: str = "multi", tau: float | None = None, alpha: float = 0.25) -> None:
        if k < 1:
            raise ValueError(f"k, the most queries of an object, must be at least 1, got {k}")
        if tau is not None and tau <= 0:
            raise ValueError(f"tau must be positive, or None for equal weights, got {tau}")
        if conflict not in CONFLICTS:
            raise ValueError(f"conflict must be one of {', '.join(CONFLICTS)}, got '{conflict}'")
        self.k, self.conflict, self.tau, self.alpha = k, conflict, tau, alpha

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"

    def score(self, stack: Stack, targets: Targets) -> Tensor:
        """(N, G, Q) scores of every object and every query of its image, high for good pairs."""
        raise NotImplementedError

    def counts(self, score_NGQ: Tensor, targets: Targets) -> Tensor:
        """(N, G) queries that each object takes, which may be more than k; ``NEVER`` marks queries that nobody may."""
        raise NotImplementedError

    def counts_of(self, stack: Stack, score_NGQ: Tensor, targets: Targets) -> Tensor:
        """What :meth:`match` asks: (N, G) queries that each object takes, which may be more than k.

        Args:
            stack: predictions; ``candidates(stack, targets).iou()`` is (N, G, Q), for a k that depends on the IoU.
            score_NGQ: of :meth:`score`; ``NEVER`` marks queries that nobody may take.
            targets: objects.
        """
        return self.counts(score_NGQ, targets)

    @torch.no_grad()
    def match(self, stack: Stack, targets: Targets) -> Assignment:
        """See :meth:`Matcher.match`. Queries that the source marked invalid are never taken."""
        N, B, Q, K = stack.shape
        G, k = targets.num, min(self.k, Q)
        if not G or not k:
            return Assignment(Pairs.empty(stack.device), Pairs.empty(stack.device))
        score_NGQ = self.score(stack, targets).float()
        if stack.given.valid_BQ is not None:
            score_NGQ = score_NGQ.masked_fill(~stack.given.valid_BQ[targets.image_G], NEVER)
        query_NGk, score_NGk = _best(score_NGQ, k)
        valid_NGk = torch.arange(k, device=stack.device) < self.counts_of(stack, score_NGQ, targets)[..., None]

        def spread(x: Tensor) -> Tensor:
            return x.expand(N, G, k).flatten()

        set_P = spread(torch.arange(N, device=stack.device)[:, None, None])
        img_P, gt_P = (spread(x[:, None]) for x in (targets.image_G, torch.arange(G, device=stack.device)))
        query_P, score_P, valid_P = query_NGk.flatten(), score_NGk.flatten(), valid_NGk.flatten()
        row_P = (set_P * B + img_P) * Q + query_P
        entry_P = row_P * K + targets.labels_G[gt_P]
        if self.conflict == "best":
            valid_P = valid_P & _first_of_each(row_P, score_P.where(valid_P, NEVER))
            only_P = valid_P
        else:
            # a softmax has one class per query; a sigmoid one answer per query and class
            answer_P = row_P if stack.softmax or self.conflict != "multi" else entry_P
            first_P = gt_P.to(score_P.dtype) if self.conflict == "last_class" else score_P
            only_P = valid_P & _first_of_each(answer_P, first_P.where(valid_P, NEVER))
        weight_P = None
        if self.tau is not None:
            quality_P = self._quality(stack, row_P, entry_P, targets.boxes_G4[gt_P])
            rank_NGk = _rank(quality_P.where(valid_P, NEVER).view(N, G, k))
            weight_P = torch.exp(rank_NGk.to(quality_P.dtype) / -self.tau).flatten()
        cls, box = (Pairs(set_P, img_P, query_P, gt_P, weight_P, v) for v in (only_P, valid_P))
        return Assignment(cls, box)

    def _quality(self, stack: Stack, row_P: Tensor, entry_P: Tensor, true_P4: Tensor) -> Tensor:
        logit_P = stack.logits_NBQK.reshape(-1)[entry_P]
        if stack.softmax:
            prob_P = (logit_P - stack.logits_NBQK.logsumexp(-1).reshape(-1)[row_P]).exp()
        else:
            prob_P = logit_P.sigmoid()
        own_P4 = stack.boxes_NBQ4.reshape(-1, 4)[row_P]
        iou_P = iou_of_corners(corners(own_P4), corners(true_P4.to(own_P4.dtype)), eps=0.0)[0]
        return aligned_quality(prob_P, iou_P, self.alpha)


def _best(score_NGQ: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best queries of each object and their scores, (N, G, k), best first and of equal ones the first."""
    Q = score_NGQ.shape[-1]
    bits = score_NGQ.view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # orders as the floats do, negative ones too
    # one integer per query that orders as (score, -index)
    key_NGk = ((bits.long() << 32) + torch.arange(Q - 1, -1, -1, device=bits.device)).topk(k, -1).values
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
