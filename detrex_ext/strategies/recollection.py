"""Query recollection: stages also learn on what earlier stages handed on.

Source: "Enhanced Training of Query-Based Object Detection via Selective Query Recollection", arXiv 2212.07593.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detrex_ext.errors import UserError
from detrex_ext.modeling.postprocess import class_scores
from detrex_ext.structures import Queries, SupervisedSet, cat

from .base import Strategy

_RECOLLECTED = ("plain", "recollect")


class QueryRecollection(Strategy):
    """Stage l takes the outputs of the ``window`` stages before it, each as a set of its own.

    With L = 6 stages, ``window=2`` and ``start_stage=1`` the stages see 1, 2, 3, 5, 8 and 13 sets, 32 in all (SQR);
    without a window 1, 2, 4, 8, 16 and 32 (DQR). Every set has its own matching and the full weight of a stage's loss;
    the normaliser stays the number of objects. Only main queries are recollected: denoising stays on the plain path.

    Args:
        window: how many preceding stages hand their output to a stage; 1 is the bare host, None all of them (DQR).
        start_stage: first stage (0-based) that takes more than its predecessor's output.
        lift_points: where initial references are points but those of a stage are boxes (one-stage hosts with
            refinement), a recollected point becomes a box of the size at which first boxes start. Without it such a
            host needs a ``start_stage`` of at least ``window``, so that the points are never recollected.
        top_k: only so many queries of an earlier set, those of highest class score, are recollected. Initial queries
            have no score: all of them are. None = all.
        repeat_last: in training the last stage runs once more, on its own outputs and on nothing else (DQRR with
            ``window=None``: 95 sets of 6 stages). It then stands for all: inference may loop it from the initial
            queries, ``model.decoder.eval_order=[5,5,5,5,5]``.
    """

    def __init__(
        self,
        window: int | None = 2,
        start_stage: int = 1,
        lift_points: bool = False,
        repeat_last: bool = False,
        top_k: int | None = None,
    ) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 (or None for all stages), got {window}")
        if start_stage < 1:
            raise ValueError(f"start_stage must be at least 1: stage 0 has one predecessor; got {start_stage}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1 (or None for all queries), got {top_k}")
        self.window, self.start_stage, self.lift_points = window, start_stage, lift_points
        self.repeat_last, self._last = repeat_last, None
        self.top_k, self._best = top_k, []

    def check(self, stages: int) -> None:
        if self.start_stage >= stages:
            raise ValueError(f"start_stage={self.start_stage}: nothing is recollected, the last stage is {stages - 1}")

    def plan(self, order: Sequence[int]) -> Sequence[int]:
        self._last = len(order) if self.repeat_last else None
        return (*order, order[-1]) if self.repeat_last else order

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        if self.top_k is not None:
            # indices, not queries: what is kept here would keep the graph of a step alive until the next one
            self._best = [*self._best, _best(sets, self.top_k)] if step >= 0 else [None]
        stage = step + 1
        if stage < self.start_stage or stage == self._last:
            return sets, q
        first = 0 if self.window is None else max(0, len(history) - self.window)
        older = [self._recollect(history[i], q, i) for i in range(first, len(history) - 1)]
        return sets, cat(*older, q) if older else q

    def _recollect(self, earlier: Queries, q: Queries, index: int) -> Queries:
        # main queries all see each other: a mask only kept them from others of their domain
        taken = earlier.take("main", _RECOLLECTED).retag(path="recollect").replace(masks={})
        if self.top_k is not None and self._best[index] is not None:
            taken = _pick(taken, self._best[index])
        now_points = any(s.point for s in q.slots if s.group == "main")
        if now_points or not any(s.point for s in taken.slots):
            return taken
        if not self.lift_points:
            later = "" if self.window is None else f", or .start_stage={self.window}: points are then not recollected"
            raise UserError(
                "recollection: the initial references are points, those of later stages boxes, and one stage cannot "
                f"refine both with one head\n  set model.strategies.sqr.lift_points=true{later}"
            )
        return taken.replace(ref_BT4=_lift(taken.ref_BT4), slots=tuple(replace(s, point=False) for s in taken.slots))


def _lift(ref_BT4: Tensor) -> Tensor:
    """Points to boxes with width and height sigmoid(-2), where a host's first boxes start."""
    size = torch.full_like(ref_BT4[..., 2:], -2.0).sigmoid()
    return torch.cat([ref_BT4[..., :2], size], -1)


def _best(sets: Sequence[SupervisedSet], k: int) -> list[Tensor]:
    """Indices (B, k) of the queries of each main set that score highest, ascending."""
    scores = [
        class_scores(s.logits_BQK.detach(), s.softmax).amax(-1)
        for s in sets
        if s.group == "main" and s.path in _RECOLLECTED
    ]
    return [score_BQ.topk(min(k, score_BQ.shape[1]), dim=1).indices.sort(1).values for score_BQ in scores]


def _pick(q: Queries, best: Sequence[Tensor]) -> Queries:
    """Only these queries of each set, chosen image by image."""
    given = q.given.get("main")
    # a prior would still be one of all queries: matchers that ask for it notice the length
    if given is not None and (given.pairs is not None or given.valid_BQ is not None):
        raise ValueError("recollection: top_k cannot choose among queries with pairs or padding; use top_k=null")
    index_BT = torch.cat([index + start for index, (_, start, _) in zip(best, q.spans(), strict=True)], 1)

    def pick(x_BT: Tensor) -> Tensor:
        wide = index_BT.reshape(*index_BT.shape, *(1,) * (x_BT.dim() - 2)).expand(-1, -1, *x_BT.shape[2:])
        return x_BT.gather(1, wide)

    slots = tuple(replace(s, size=index.shape[1]) for s, index in zip(q.slots, best, strict=True))
    extra = {name: pick(x) for name, x in q.extra.items()}
    return Queries(pick(q.content_BTC), pick(q.ref_BT4), slots, {}, q.given, extra)
