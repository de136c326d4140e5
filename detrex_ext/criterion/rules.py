"""Which sets are supervised how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detrex_ext.matching import GivenMatcher, HungarianMatcher, Matcher, RepeatedMatcher
from detrex_ext.structures import SupervisedSet

from .losses import FocalLoss, GIoULoss, L1Loss, Loss, SoftmaxLoss
from .normalizers import NORMALIZERS, Normalizer, NumObjects

TAGS = ("group", "path", "stage")


@dataclass
class Term:
    """A weighted loss.

    Attributes:
        loss: from a :class:`~detrex_ext.criterion.Supervision` to (N,) sums.
        weight: factor of the loss.
        normalizer: what the sums are divided by; a name of ``NORMALIZERS`` or an object.
    """

    loss: Loss
    weight: float = 1.0
    normalizer: str | Normalizer = "num_objects"

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(f"a term's loss must be a Loss; found {type(self.loss).__name__}")
        if isinstance(self.normalizer, str):
            if self.normalizer not in NORMALIZERS:
                raise ValueError(f"normalizer '{self.normalizer}' is not one of {', '.join(NORMALIZERS)}")
            self.normalizer = NORMALIZERS[self.normalizer]


@dataclass
class Rule:
    """How the sets that fit are supervised.

    Attributes:
        when: per tag (``group``, ``path``, ``stage``) the value or values that fit; a tag left out or None fits
            always. None: all sets, or in a dict of rules (:func:`rules_by_group`) those of the group its key names.
        matcher: decides who answers for which object.
        terms: losses by short name: ``class`` gives ``loss_class``, ``loss_class_dn``, ...; one of None is left out.
        objectness: every object counts as class 0 (two-stage Deformable-DETR's encoder).
        stage_weights: factor of all losses of stage 0, 1, ...; the last holds for the stages after it too, so that
            ``[0, 1]`` leaves the first stage without loss of its own. None: ones.
    """

    matcher: Matcher
    terms: Mapping[str, Term]
    when: Mapping[str, Any] | None = None
    objectness: bool = False
    stage_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.terms = {str(name): term for name, term in self.terms.items() if term is not None}
        if not self.terms or not all(isinstance(term, Term) for term in self.terms.values()):
            kinds = ", ".join(f"{name} is {type(term).__name__}" for name, term in self.terms.items())
            raise ValueError(f"a rule's terms must be one Term or more by name; {kinds or 'there is none'}")
        if not hasattr(self.matcher, "match"):
            raise ValueError(f"a rule's matcher must be a Matcher; found {type(self.matcher).__name__}")
        if self.when is not None:
            unknown = set(self.when) - set(TAGS)
            if unknown:
                raise ValueError(f"a rule's 'when' has the tags {', '.join(TAGS)}; found {', '.join(sorted(unknown))}")
            self.when = {tag: _values(value) for tag, value in self.when.items() if value is not None}
        if self.stage_weights is not None:
            self.stage_weights = tuple(float(w) for w in self.stage_weights)
            if not self.stage_weights or min(self.stage_weights) < 0:
                raise ValueError(f"stage_weights must be numbers of at least 0, got {list(self.stage_weights)}")

    def fits(self, s: SupervisedSet) -> bool:
        """Whether a set is supervised by this rule."""
        return all(getattr(s, tag) in values for tag, values in (self.when or {}).items())

    def stage_weight(self, stage: int) -> float:
        """Factor of the losses of a stage; 1 for what is supervised before the decoder (stage -1)."""
        if self.stage_weights is None or stage < 0:
            return 1.0
        return self.stage_weights[min(stage, len(self.stage_weights) - 1)]

    def weighted(
        self,
        factor: float = 1.0,
        class_weight: float | None = None,
        by: Callable[[Normalizer], Normalizer] | None = None,
        **changes: Any,
    ) -> Rule:
        """This rule with other weights, as a strategy derives its own from the host's.

        Args:
            factor: of all losses.
            class_weight: weight of the term ``class`` instead of its own, before ``factor``.
            by: from a term's normalizer to the one that takes its place.
            changes: of other fields.
        """

        def term(name: str, own: Term) -> Term:
            weight = own.weight if name != "class" or class_weight is None else class_weight
            return replace(own, weight=weight * factor, normalizer=own.normalizer if by is None else by(own.normalizer))

        return replace(self, terms={name: term(name, own) for name, own in self.terms.items()}, **changes)

    def __str__(self) -> str:
        when = ", ".join(f"{tag} in {values}" for tag, values in (self.when or {}).items())
        return f"{when or 'any set'} -> {type(self.matcher).__name__}"


def rules_by_group(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """``model.rules``: a rule that states no ``when`` is for the group its key names; one of None is left out."""
    made = {str(group): rule for group, rule in rules.items() if rule is not None}
    for group, rule in made.items():
        if not isinstance(rule, Rule):
            raise ValueError(f"rules.{group}: expected a Rule, found {type(rule).__name__}")
    return {g: r if r.when is not None else replace(r, when={"group": g}) for g, r in made.items()}


def detr_rule(
    matcher: Matcher | None = None,
    class_weight: float = 1.0,
    bbox_weight: float = 5.0,
    giou_weight: float = 2.0,
    softmax: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    eos: float = 0.1,
    objectness: bool = False,
    when: Mapping[str, Any] | None = None,
    stage_weights: Sequence[float] | None = None,
) -> Rule:
    """The rule of DETR hosts: terms ``class`` (focal, or softmax with "no object"), ``bbox`` (L1) and ``giou``.

    Args:
        matcher: default is Hungarian with costs 2 (focal), 5, 2, or with softmax 1, 5, 2.
        class_weight: weight of the term ``class``.
        bbox_weight: weight of the term ``bbox``.
        giou_weight: weight of the term ``giou``.
        softmax: cross-entropy with ``eos`` as the weight of "no object", instead of focal (``alpha``, ``gamma``).
        alpha: of the focal loss.
        gamma: of the focal loss.
        eos: see ``softmax``.
        objectness: as in :class:`Rule`.
        when: as in :class:`Rule`.
        stage_weights: as in :class:`Rule`.
    """
    if matcher is None:
        kind = {"cost_class": 1.0, "cost_class_type": "ce_cost"} if softmax else {"cost_class": 2.0}
        matcher = HungarianMatcher(cost_bbox=5.0, cost_giou=2.0, **kind)
    by_class = Term(SoftmaxLoss(eos), class_weight, "mean") if softmax else Term(FocalLoss(alpha, gamma), class_weight)
    terms = {"class": by_class, "bbox": Term(L1Loss(), bbox_weight), "giou": Term(GIoULoss(), giou_weight)}
    return Rule(matcher, terms, when, objectness, stage_weights)


def detr_rules(groups: Iterable[str] = ("main",), enc_objectness: bool = False, **options: Any) -> dict[str, Rule]:
    """:func:`detr_rule` for several groups: denoising (``dn``) with its given pairs, the rest matched.

    Args:
        groups: of ``main | enc | dn | ...``.
        enc_objectness: the encoder's sets know objects only, not classes.
        options: of :func:`detr_rule`, for all groups.
    """
    rules = {}
    for group in groups:
        own = {"matcher": GivenMatcher()} if group == "dn" else {}
        rules[group] = detr_rule(**{**options, **own}, objectness=enc_objectness and group == "enc")
    return rules_by_group(rules)


def hybrid_rule(main: Rule, times: int = 6, weight: float = 1.0) -> Rule:
    """The rule of hybrid queries (H-DETR, arXiv 2207.13080, section 3.2) from that of main: objects are repeated.

    Args:
        main: the host's rule.
        times: queries that answer for an object (k); where main divides by the number of objects, each counts k times.
        weight: factor of all losses (lambda).
    """

    def repeated(own: Normalizer) -> Normalizer:
        return NumObjects(own.factor * times) if isinstance(own, NumObjects) else own

    return main.weighted(weight, by=repeated, matcher=RepeatedMatcher(main.matcher, times), when=None)


def _values(value: Any) -> tuple:
    single = isinstance(value, str) or not isinstance(value, Collection)
    return (value,) if single else tuple(value)
