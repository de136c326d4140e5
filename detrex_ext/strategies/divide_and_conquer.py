"""Divide and conquer: a second decoder pass without self-attention, on the same weights, supervised one-to-many.

Source: "DAC-DETR: Divide the Attention Layers and Conquer", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from detrex_ext.structures import Queries, SupervisedSet, cat

from .base import Strategy

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.criterion.normalizers import Normalizer
    from detrex_ext.matching import Matcher


class DivideAndConquer(Strategy):
    """Cross-attention also learns without self-attention: to gather queries around objects, not to keep them apart.

    Auxiliary sets (path ``aux``) hold the same queries as the plain ones and keep their own content and references.
    They pass all of a stage but its self-attention, in the same calls, so that nothing of the memory is done twice.
    Several of them answer for an object. They never enter what other strategies recollect.

    Args:
        matcher: who answers for which object in the auxiliary sets; None: :class:`OneToManyMatcher` as published.
        start: ``"shared"``: auxiliary sets begin as the outcome of the first stage, which both share (the authors'
            code); its predictions are then supervised in both ways. ``"init"``: as the initial queries (their figure).
        denoising: denoising queries have an auxiliary set too, with their given pairs.
        box_source: whose boxes the matcher scores: ``"main"``, the same queries' on the plain path (the authors'
            code), or the auxiliary sets' ``"own"``.
        first_stage: auxiliary sets are supervised from this stage (0-based) on.
        weight: factor of the auxiliary losses of main queries.
        dn_weight: factor of those of denoising queries.
        class_weight: weight of the auxiliary class term instead of the host's.
        norm_factor: auxiliary losses of main queries are divided by so many times the number of objects, whatever the
            host divides by (but a loss that is a mean stays one).
        recollected: sets that a recollection adds have an auxiliary set too, from where they are added on: twice as
            many sets, and as many times the auxiliary losses. The recollection comes before in ``model.strategies``.
    """

    def __init__(
        self,
        matcher: Matcher | None = None,
        start: str = "shared",
        denoising: bool = True,
        box_source: str = "main",
        first_stage: int = 0,
        weight: float = 1.0,
        dn_weight: float = 1.0,
        class_weight: float | None = None,
        norm_factor: float = 3.0,
        recollected: bool = False,
    ) -> None:
        for name, value, known in (
            ("start", start, ("shared", "init")),
            ("box_source", box_source, ("main", "own")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{value}'")
        if norm_factor <= 0:
            raise ValueError(f"norm_factor must be positive, got {norm_factor}")
        if first_stage < 0:
            raise ValueError(f"first_stage counts from 0, got {first_stage}")
        self.matcher, self.box_source, self.first_stage = matcher, box_source, first_stage
        self.start_step = 0 if start == "shared" else -1
        self.groups = ("main", "dn") if denoising else ("main",)
        self.weight, self.dn_weight, self.class_weight = weight, dn_weight, class_weight
        self.norm_factor, self.recollected = norm_factor, recollected
        self.twinned = ("plain", "recollect") if recollected else ("plain",)

    def check(self, stages: int) -> None:
        """See :meth:`Strategy.check`."""
        if stages == 1 and self.start_step == 0:
            raise ValueError(
                "a decoder of one stage leaves nothing to divide: auxiliary sets begin as the outcome of the first "
                "stage (start='shared'), and no stage follows"
            )
        if self.first_stage >= stages:
            raise ValueError(
                f"first_stage={self.first_stage}: no auxiliary set is supervised, the last stage is {stages - 1}"
            )

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        """See :meth:`Strategy.after_stage`."""
        if step == self.start_step:
            q = cat(history[-1].take(self.groups, "plain").retag(path="aux", attend=False), q)
            sets = [*sets, *(replace(s, path="aux") for s in sets if s.path == "plain" and s.group in self.groups)]
        q = self._with_twins(history[-1], q) if self.recollected else q
        if step < self.first_stage:
            return [s for s in sets if s.path != "aux"], q
        if self.box_source == "main":
            # auxiliary sets stand in the order of those that they are twins of
            boxes = [s.boxes_BQ4 for s in sets if s.group == "main" and s.path in self.twinned]
            at = [i for i, s in enumerate(sets) if (s.group, s.path) == ("main", "aux")]
            seen = dict(zip(at, boxes, strict=True))
            sets = [replace(s, match_boxes_BQ4=seen[i]) if i in seen else s for i, s in enumerate(sets)]
        return sets, q

    def _with_twins(self, last: Queries, q: Queries) -> Queries:
        """Adds auxiliary sets of what a recollection has added since the last stage."""
        paths = [s.path for s in last.slots if s.group == "main"]
        if "recollect" in paths and paths.count("aux") != paths.count("recollect") + 1:
            raise ValueError(
                "DivideAndConquer(recollected=True) sees recollected sets too late: the recollection comes before it "
                "in model.strategies, as by --overlay sqr,dac"
            )
        known = {s.domain for s in last.slots}
        added = q.select([s.path == "recollect" and s.domain not in known for s in q.slots])
        return cat(added.retag(path="aux", attend=False), q) if added.slots else q

    def rules(self, host_rules: dict[str, Rule]) -> list[Rule]:
        """See :meth:`Strategy.rules`."""
        from detrex_ext.criterion.normalizers import Mean, NumObjects
        from detrex_ext.matching import OneToManyMatcher

        many = NumObjects(self.norm_factor)

        def divisor(own: Normalizer) -> Normalizer:
            return own if isinstance(own, Mean) else many

        def rule(group: str, *weights: float | None, **changes: object) -> Rule:
            return host_rules[group].weighted(*weights, when={"group": group, "path": "aux"}, **changes)

        matcher = self.matcher or OneToManyMatcher()
        rules = [rule("main", self.weight, self.class_weight, by=divisor, matcher=matcher)]
        return [*rules, rule("dn", self.dn_weight)] if "dn" in host_rules else rules
