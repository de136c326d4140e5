"""Query recollection: stages also learn on what earlier stages handed on.

Source: "Enhanced Training of Query-Based Object Detection via Selective Query Recollection", arXiv 2212.07593.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detrex_ext.errors import UserError
from detrex_ext.structures import Queries, SupervisedSet, cat

from .base import Strategy

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule

_RECOLLECTED = ("plain", "recollect")


class QueryRecollection(Strategy):
    """Stage l takes the outputs of the ``window`` stages before it, each as a set of its own.

    With L = 6 stages, ``window=2`` and ``start_stage=1`` the stages see 1, 2, 3, 5, 8 and 13 sets, 32 in all (SQR);
    without a window 1, 2, 4, 8, 16 and 32 (DQR). Every set has its own matching and the full weight of a stage's loss;
    the normalizer stays the number of objects. Only main queries are recollected: denoising stays on the plain path.

    Args:
        window: how many preceding stages hand their output to a stage; 1 is the bare host, None all of them (DQR).
        start_stage: first stage (0-based) that takes more than its predecessor's output.
        lift_points: where initial references are points but those of a stage are boxes (one-stage hosts with
            refinement), a recollected point becomes a box of the size at which first boxes start. Without it such a
            host needs a ``start_stage`` of at least ``window``, so that the points are never recollected.
        repeat_last: in training the last stage runs once more, on its own outputs and on nothing else (DQRR with
            ``window=None``: 95 sets of 6 stages). It then stands for all: inference may loop it from the initial
            queries, ``model.decoder.eval_order=[5,5,5,5,5]``.
        since: progress of the training, 0 to 1, from which on anything is recollected; the bare host before.
        as_one: the recollected sets of a stage weigh together as much as its plain one, not each of them.
    """

    def __init__(
        self,
        window: int | None = 2,
        start_stage: int = 1,
        lift_points: bool = False,
        repeat_last: bool = False,
        since: float = 0.0,
        as_one: bool = False,
    ) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 (or None for all stages), got {window}")
        if start_stage < 1:
            raise ValueError(f"start_stage must be at least 1: stage 0 has one predecessor; got {start_stage}")
        if not 0 <= since < 1:
            raise ValueError(f"since is a progress of the training, at least 0 and below 1, got {since}")
        self.window, self.start_stage, self.lift_points = window, start_stage, lift_points
        self.repeat_last, self.since, self.as_one = repeat_last, since, as_one
        self._stages = self._last = None

    def check(self, stages: int) -> None:
        """See :meth:`Strategy.check`."""
        if stages == 1:
            raise ValueError("recollection needs a decoder of several stages, to hand on from; this one has one")
        if self.start_stage >= stages:
            raise ValueError(f"start_stage={self.start_stage}: nothing is recollected, the last stage is {stages - 1}")
        self._stages = stages

    def sets(self, stages: int) -> list[int]:
        """How many sets of main queries each stage runs on, recollected ones and the plain one."""
        outputs = [1]  # of the initial queries, then of each stage
        for stage in range(stages):
            first = stage if stage < self.start_stage else 0 if self.window is None else stage + 1 - self.window
            outputs.append(sum(outputs[max(first, 0) :]))
        return outputs[1:] + outputs[-1:] * self.repeat_last

    def rules(self, host_rules: dict[str, Rule]) -> list[Rule]:
        """See :meth:`Strategy.rules`.

        Raises:
            ValueError: :meth:`check` was not asked before.
        """
        if not self.as_one:
            return []
        if self._stages is None:
            raise ValueError("as_one=true needs the number of stages: call check(stages) before rules")
        main = host_rules["main"]
        weights = [main.stage_weight(n) / max(sets - 1, 1) for n, sets in enumerate(self.sets(self._stages))]
        return [replace(main, when={"group": "main", "path": "recollect"}, stage_weights=weights)]

    def plan(self, order: Sequence[int]) -> Sequence[int]:
        """See :meth:`Strategy.plan`."""
        self._last = len(order) if self.repeat_last else None
        return (*order, order[-1]) if self.repeat_last else order

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        """See :meth:`Strategy.after_stage`.

        Raises:
            UserError: points would be recollected into a stage of boxes, and ``lift_points`` is not set.
        """
        stage = step + 1
        if stage < self.start_stage or stage == self._last:
            return sets, q
        first = 0 if self.window is None else max(0, len(history) - self.window)
        older = [self._recollect(earlier, q) for earlier in history[first:-1]]
        return sets, cat(*older, q) if older else q

    def _recollect(self, earlier: Queries, q: Queries) -> Queries:
        # main queries all see each other: a mask only kept them from others of their domain
        taken = earlier.take("main", _RECOLLECTED).retag(path="recollect").replace(masks={})
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
