"""The seam where training strategies act on a staged decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.modeling.decoders import StagedDecoder
    from detrex_ext.modeling.detector import Detector


class Strategy:
    """A training strategy: no state between batches, idle at inference.

    One that needs parameters is an ``nn.Module`` too: they are trained and checkpointed with the model, under
    ``training_only.<name>``, and no predicting model has them (:mod:`detrex_ext.structures.training_only`).

    The decoder calls :meth:`plan` once and :meth:`after_stage` after every step, step -1 being the initial queries.

    Attributes:
        reads: whether :meth:`readout` has anything to say.
        since: progress of the training, 0 to 1, from which on it acts.
    """

    reads = False
    since: float = 0.0

    def check(self, stages: int) -> None:
        """Raises a ``ValueError`` where an option would do nothing in a decoder that trains so many stages."""

    def attach(self, model: Detector) -> None:
        """Makes the parameters to be trained, after the model's own parts; they start anew with every call.

        Raises:
            ValueError: the model lacks a part that it takes.
        """

    def routes(self, decoder: StagedDecoder) -> Mapping[str, StagedDecoder]:
        """By path, views of the decoder (:func:`~detrex_ext.modeling.views.with_parts`) that its sets go through."""
        return {}

    def begin(
        self, model: Detector, q: Queries, mem: Memory, targets: Targets | None
    ) -> tuple[list[SupervisedSet], Queries]:
        """Sets that are supervised before the decoder, and its initial queries, changed or not.

        Args:
            model: whose parts may be called.
            q: initial queries, (B, T, C).
            mem: what they attend to, (B, S, C).
            targets: in training.
        """
        return [], q

    def readout(self, decoder: StagedDecoder, layer: int, x: Queries, mem: Memory) -> Mapping[str, Tensor]:
        """Further ``outputs`` (B, T, ...) of the sets of a stage, by name, where ``reads``; in training only.

        Args:
            decoder: the host's.
            layer: of the stage.
            x: content (B, T, C) that is predicted from, with the stage's scratch.
            mem: what the stage attended to.
        """
        return {}

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
