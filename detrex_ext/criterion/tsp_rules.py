"""Rules of TSP-FCOS and TSP-RCNN (arXiv 2011.10881, section 4), as their authors' code has them unless asked otherwise.

Candidates of an object are the tokens that FCOS's rule or the overlap of boxes gives it. One of them is matched: its
class is the object's, and all others are background. The boxes of all candidates are regressed (the authors' code), or
that of the matched one alone (a plain reading of the paper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detrex_ext.matching import (
    FCOSMatcher,
    GIoUCost,
    HungarianMatcher,
    Matcher,
    RestrictedMatcher,
    RoIMatcher,
    SoftmaxClassCost,
)

from .fcos_losses import CenternessLoss, CentralGIoULoss, ClassDenorm, NumCandidates, SumOfCenterness
from .losses import FocalLoss, GIoULoss, SoftmaxLoss
from .normalizers import NumImages
from .roi_losses import ClassBoxGIoULoss, DeltaLoss, NumRegions, ObjectsAndImages, RegionSoftmaxLoss
from .rules import Rule, Term, rules_by_group

MATCHES = ("restricted", "hungarian", "one_to_many")
BOX_LOSS_ON = ("candidates", "matched")
ON_SET = 3.0  # factor of the box losses of TSP-RCNN where matched regions alone have them (FINETUNE_ON_SET)


def tsp_fcos_rule(
    matcher: Matcher | None = None,
    match: str = "restricted",
    box_loss_on: str = "candidates",
    class_denorm: str = "mixed_2x",
    eos: float = 0.1,
    only_reweight_fg: bool = True,
    alpha: float = 0.25,
    gamma: float = 2.0,
    class_weight: float = 1.0,
    giou_weight: float = 1.0,
    centerness_weight: float = 1.0,
    when: Mapping[str, Any] | None = None,
    stage_weights: Sequence[float] | None = None,
) -> Rule:
    """The rule of TSP-FCOS's tokens: terms ``class``, ``giou`` and ``centerness``.

    Args:
        matcher: any, instead of ``match``; it decides whose boxes are regressed.
        match: ``restricted``: an object takes its cheapest candidate; ``hungarian``: any token, as in DETR, with the
            losses of the authors' comparison; ``one_to_many``: all its candidates.
        box_loss_on: whose boxes are regressed where matching is restricted: ``candidates`` (the code) or ``matched``.
        class_denorm: what ``class`` is divided by, see :class:`ClassDenorm`; one-to-many it is the candidates.
        eos: weight of the class loss of candidates that are not matched, with ``hungarian`` of "no object".
        only_reweight_fg: as in :class:`~detrex_ext.matching.RestrictedMatcher`.
        alpha: of the focal loss.
        gamma: of the focal loss.
        class_weight: weight of the term ``class``.
        giou_weight: weight of the term ``giou``; with ``hungarian`` it counts 10 times.
        centerness_weight: weight of the term ``centerness``.
        when: as in :class:`Rule`.
        stage_weights: as in :class:`Rule`.
    """
    _check(match, box_loss_on)
    central = Term(CenternessLoss(), centerness_weight, NumCandidates())
    if matcher is None and match == "hungarian":
        matcher = HungarianMatcher([SoftmaxClassCost(zero=True), GIoUCost(5.0, eps=0.0)])
        by_class = Term(SoftmaxLoss(eos, zero=True), class_weight, "mean")
        by_box = Term(GIoULoss(eps=0.0), 10 * giou_weight, NumCandidates())
        return Rule(matcher, {"class": by_class, "giou": by_box, "centerness": central}, when, False, stage_weights)
    if matcher is None:
        take = "all" if match == "one_to_many" else "best"
        matcher = FCOSMatcher(take, box_loss_on, eos, only_reweight_fg)
        class_denorm = "all" if match == "one_to_many" else class_denorm
    by_class = Term(FocalLoss(alpha, gamma), class_weight, ClassDenorm(class_denorm, eos))
    if isinstance(matcher, RestrictedMatcher):
        by_box = Term(CentralGIoULoss(), giou_weight, SumOfCenterness())
    else:  # a point outside of an object has no centerness in it
        by_box = Term(GIoULoss(), giou_weight, "num_pairs")
    return Rule(matcher, {"class": by_class, "giou": by_box, "centerness": central}, when, False, stage_weights)


def tsp_token_rule(
    binary: bool = False, alpha: float = 0.25, gamma: float = 2.0, weight: float = 1.0, matcher: Matcher | None = None
) -> Rule:
    """The rule of TSP-FCOS's classifier of points, one-to-many by FCOS's rule: term ``class``.

    Args:
        binary: it knows objects only (the paper), not classes (the code).
        alpha: of the focal loss.
        gamma: of the focal loss.
        weight: of the term.
        matcher: None: all candidates are positive.
    """
    matcher = FCOSMatcher("all") if matcher is None else matcher
    return Rule(matcher, {"class": Term(FocalLoss(alpha, gamma), weight, "num_pairs")}, objectness=binary)


def tsp_fcos_rules(binary: bool = False, **options: Any) -> dict[str, Rule]:
    """``model.rules`` of TSP-FCOS: groups ``main`` and ``token``.

    Args:
        binary: of :func:`tsp_token_rule`.
        options: of :func:`tsp_fcos_rule`.
    """
    return rules_by_group({"main": tsp_fcos_rule(**options), "token": tsp_token_rule(binary)})


def tsp_rcnn_rule(
    matcher: Matcher | None = None,
    match: str = "restricted",
    box_loss_on: str = "candidates",
    eos: float = 0.1,
    gamma: float = 2.0,
    empty: str = "background",
    class_weight: float = 1.0,
    bbox_weight: float = 1.0,
    giou_weight: float = 2.0,
    when: Mapping[str, Any] | None = None,
    stage_weights: Sequence[float] | None = None,
) -> Rule:
    """The rule of TSP-RCNN's regions: terms ``class``, ``bbox`` (of deltas) and ``giou``.

    Args:
        matcher: any, instead of ``match``; it decides whose boxes are regressed.
        match: ``restricted``: an object takes its cheapest candidate; ``hungarian``: any region, as in DETR, without
            ``bbox`` and with half of ``class``; ``one_to_many``: all its candidates.
        box_loss_on: whose boxes are regressed where matching is restricted: ``candidates`` (the code), or ``matched``
            ones, whose losses count 3 times.
        eos: weight of regions that are not matched.
        gamma: how much less easy background counts, see :class:`RegionSoftmaxLoss`; of ``restricted`` alone.
        empty: where nothing is matched in the batch, see :class:`RegionSoftmaxLoss`.
        class_weight: weight of the term ``class``.
        bbox_weight: weight of the term ``bbox``.
        giou_weight: weight of the term ``giou``.
        when: as in :class:`Rule`.
        stage_weights: as in :class:`Rule`.
    """
    _check(match, box_loss_on)
    if matcher is None and match == "hungarian":
        matcher = HungarianMatcher([SoftmaxClassCost(), GIoUCost(5.0, eps=0.0)])
        by_class = Term(SoftmaxLoss(eos), 0.5 * class_weight, "mean")
        by_box = Term(GIoULoss(eps=0.0), giou_weight, ObjectsAndImages())
        return Rule(matcher, {"class": by_class, "giou": by_box}, when, False, stage_weights)
    if matcher is None:
        matcher = RoIMatcher("all" if match == "one_to_many" else "best", box_loss_on)
        gamma = 0.0 if match == "one_to_many" else gamma
    on_set = isinstance(matcher, RestrictedMatcher) and matcher.take == "best" and matcher.box_on == "matched"
    factor, regions = ON_SET if on_set else 1.0, NumRegions()
    terms = {
        "class": Term(RegionSoftmaxLoss(eos, gamma, empty), class_weight, "mean"),
        "bbox": Term(DeltaLoss(), factor * bbox_weight, regions),
        "giou": Term(ClassBoxGIoULoss(), factor * giou_weight, regions),
    }
    return Rule(matcher, terms, when, False, stage_weights)


def rpn_rule(num_samples: int = 256, class_weight: float = 1.0, bbox_weight: float = 2.0) -> Rule:
    """The rule of a proposal network's sampled anchors: terms ``class`` (cross-entropy) and ``bbox`` (of deltas).

    Args:
        num_samples: of an image; both terms are divided by so many for each image, also where fewer were found.
        class_weight: weight of the term ``class``.
        bbox_weight: weight of the term ``bbox``.
    """
    of_images = NumImages(num_samples)
    halves = FocalLoss(0.5, 0.0)  # without focus and with equal shares it is half of the cross-entropy
    terms = {
        "class": Term(halves, 2 * class_weight, of_images),
        "bbox": Term(DeltaLoss((1.0, 1.0, 1.0, 1.0)), bbox_weight, of_images),
    }
    return Rule(RoIMatcher("all"), terms, objectness=True)


def tsp_rcnn_rules(**options: Any) -> dict[str, Rule]:
    """``model.rules`` of TSP-RCNN: groups ``main`` and ``token``, its proposals'.

    Args:
        options: of :func:`tsp_rcnn_rule`.
    """
    return rules_by_group({"main": tsp_rcnn_rule(**options), "token": rpn_rule()})


def _check(match: str, box_loss_on: str) -> None:
    for name, value, known in (("match", match, MATCHES), ("box_loss_on", box_loss_on, BOX_LOSS_ON)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got '{value}'")
