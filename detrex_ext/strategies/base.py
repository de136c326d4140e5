"""The seam where training strategies act on a staged decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detrex_ext.structures import Queries, SupervisedSet

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule


class Strategy:
    """A training strategy: no state between batches, idle at inference.

    One that needs parameters is an ``nn.Module`` too: they are trained and checkpointed with the model, under
    ``training_only.<name>``, and no predicting model has them (:mod:`detrex_ext.structures.training_only`).

    The decoder calls :meth:`plan` once and :meth:`after_stage` after every step, step -1 being the initial queries.

    Attributes:
        since: progress of the training, 0 to 1, from which on it acts.
    """

    since: float = 0.0

    def check(self, stages: int) -> None:
        """Raises a ``ValueError`` where an option would do nothing in a decoder that trains so many stages."""

    def plan(self, order: Sequence[int]) -> Sequence[int]:
        """The layers a training pass runs, from the host's order: an extra pass, a skipped layer."""
        return order

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        """Decide who is supervised and who goes on.

        Args:
            step: the step that just ended; -1 before the first.
            history: raw output of every step so far, the initial queries first; ``history[-1]`` is this step's.
            sets: this step's predictions, (B, Q, K) and (B, Q, 4), one per slot of the queries that entered it.
            q: the queries that would enter the next step, (B, T, C).

        Returns:
            ``sets`` and ``q``, changed or not.
        """
        return sets, q

    def rules(self, host_rules: dict[str, Rule]) -> list[Rule]:
        """Rules for the sets this strategy adds, derived from the host's (by group); they come first."""
        return []
