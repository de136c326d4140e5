"""One-to-many matching with a fixed number of queries for every object.

Shape legend: N sets, Q queries of a set, G objects of the batch (flat).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor

from detrex_ext.structures import Assignment, Targets

from .base import HostProblem, Matcher
from .costs import Cost, candidates
from .given import GivenMatcher
from .hungarian import HungarianMatcher
from .late import LateMatcher
from .restricted import RestrictedMatcher
from .score_matcher import NEVER, ScoreMatcher
from .stack import Stack


class TopKMatcher(ScoreMatcher):
    """Every object takes its k best queries, whatever other objects do: the simplest rule.

    Ties, precision, places: see :class:`ScoreMatcher`.

    Args:
        k, conflict, tau, alpha: see :class:`ScoreMatcher`. A query may be among the best of several objects.
        costs: terms of a cost; the cheapest queries are the best. None: those of the highest IoU are.
    """

    def __init__(
        self,
        k: int = 6,
        costs: Iterable[Cost] | None = None,
        conflict: str = "multi",
        tau: float | None = None,
        alpha: float = 0.25,
    ) -> None:
        super().__init__(k, conflict, tau, alpha)
        self.priced = None if costs is None else HungarianMatcher(costs)

    def score(self, stack: Stack, targets: Targets) -> Tensor:
        """See :meth:`ScoreMatcher.score`."""
        if self.priced is None:
            return candidates(stack, targets).iou(eps=0.0)
        return 0.0 - self.priced.cost(stack, targets)

    def counts(self, score_NGQ: Tensor, targets: Targets) -> Tensor:
        """(N, G) queries that may be taken."""
        return (score_NGQ > NEVER).sum(-1)


class RepeatedMatcher(Matcher):
    """A fixed number of queries for each object, of least total cost (H-DETR, arXiv 2207.13080, section 3.2).

    Args:
        matcher: one-to-one, decides over objects that are repeated.
        times: queries per object; fewer where there are not enough.

    Raises:
        ValueError: a matcher that is not one-to-one.
    """

    def __init__(self, matcher: Matcher, times: int = 6) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        for one in (matcher.early, matcher.late) if isinstance(matcher, LateMatcher) else (matcher,):
            if isinstance(one, ScoreMatcher | GivenMatcher | RestrictedMatcher):
                raise ValueError(
                    "RepeatedMatcher (hybrid queries) repeats objects for a one-to-one matcher such as "
                    f"HungarianMatcher; {type(one).__name__} decides itself how many queries an object takes: use it "
                    "alone"
                )
        self.matcher, self.times = matcher, times

    def __repr__(self) -> str:
        return f"RepeatedMatcher({self.matcher}, times={self.times})"

    def match(self, stack: Stack, targets: Targets) -> Assignment | HostProblem:
        """See :meth:`Matcher.match`."""
        labels = tuple(x.repeat_interleave(self.times) for x in targets.labels)
        boxes = tuple(x.repeat_interleave(self.times, 0) for x in targets.boxes)
        problem = self.matcher.match(stack, Targets(labels, boxes, targets.image_hw_B2))
        if isinstance(problem, Assignment):
            pairs = replace(problem.cls, gt_P=problem.cls.gt_P // self.times)
            return Assignment(cls=pairs, box=pairs)

        def solve(arrays: list[np.ndarray]) -> np.ndarray:
            pairs = problem.solve(arrays)
            pairs[3] //= self.times
            return pairs

        return HostProblem(problem.tensors, solve)
