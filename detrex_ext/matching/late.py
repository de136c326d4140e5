"""A matcher that changes in the course of a training."""

from __future__ import annotations

from detrex_ext.structures import Assignment, Targets

from .base import HostProblem, Matcher
from .stack import Stack


class LateMatcher(Matcher):
    """One matcher, and from a progress of the training on another (Rank-DETR, arXiv 2310.08854; DEIMv2).

    Outside of a training, where there is no progress, the first one decides.

    Args:
        early: decides at first.
        late: decides then.
        since: progress of the training, 0 to 1, from which on it does.
    """

    def __init__(self, early: Matcher, late: Matcher, since: float = 0.75) -> None:
        if not 0 <= since <= 1:
            raise ValueError(f"since is a progress of the training, 0 to 1, got {since}")
        self.early, self.late, self.since = early, late, since

    def __repr__(self) -> str:
        return f"LateMatcher({self.early}, {self.late}, since={self.since})"

    def match(self, stack: Stack, targets: Targets) -> Assignment | HostProblem:
        """See :meth:`Matcher.match`."""
        return (self.late if stack.progress >= self.since else self.early).match(stack, targets)
