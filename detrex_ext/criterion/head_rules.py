"""Rules of heads beside a decoder: ATSS (arXiv 1912.02424), and Faster R-CNN's second stage (arXiv 1506.01497).

Shape legend: N sets, B images, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detrex_ext.layers.box_ops import corners, giou_of_corners
from detrex_ext.layers.fcos_targets import centerness
from detrex_ext.matching import RoIMatcher

from .fcos_losses import CenternessLoss, SumOfCenterness, true_ltrb
from .losses import FocalLoss, Loss
from .normalizers import Normalizer
from .roi_losses import ClassBoxGIoULoss, NumRegions, RegionSoftmaxLoss
from .rules import Rule, Term
from .supervision import Supervision


class AnchorGIoULoss(Loss):
    """1 - GIoU of matched boxes, each times the centerness of its anchor in the object."""

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        giou_P = giou_of_corners(corners(s.box_pred_P4), corners(s.box_true_P4), eps=0.0)
        return s.per_set(centerness(true_ltrb(s)) * (1 - giou_P), s.assignment.box)


class PairsOfImages(Normalizer):
    """Box pairs of each set, where an image without any counts as one, as in mmdetection."""

    def count(self, s: Supervision) -> Tensor:
        """See :meth:`Normalizer.count`."""
        pairs, (N, B, _, _) = s.assignment.box, s.stack.shape
        one_P = s.box_true_P4.new_ones(len(pairs))
        one_P = one_P if pairs.valid_P is None else one_P * pairs.valid_P
        counted = one_P.new_zeros(N * B).index_add(0, pairs.set_P * B + pairs.img_P, one_P)
        return counted.view(N, B).clamp(min=1).sum(1)


def atss_rule(
    class_weight: float = 1.0,
    giou_weight: float = 2.0,
    centerness_weight: float = 1.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
    when: Mapping[str, Any] | None = None,
) -> Rule:
    """The rule of sets whose source names the object of each anchor: terms ``class``, ``giou`` and ``centerness``.

    Args:
        class_weight: weight of the term ``class``.
        giou_weight: weight of the term ``giou``.
        centerness_weight: weight of the term ``centerness``.
        alpha: of the focal loss.
        gamma: of the focal loss.
        when: as in :class:`Rule`.
    """
    by_image = PairsOfImages()
    terms = {
        "class": Term(FocalLoss(alpha, gamma), class_weight, by_image),
        "giou": Term(AnchorGIoULoss(), giou_weight, SumOfCenterness(1.0)),
        "centerness": Term(CenternessLoss(), centerness_weight, by_image),
    }
    return Rule(RoIMatcher("all"), terms, when)


def region_rule(class_weight: float = 1.0, giou_weight: float = 10.0, when: Mapping[str, Any] | None = None) -> Rule:
    """The rule of regions whose source names their objects: terms ``class`` (cross-entropy) and ``giou``.

    Args:
        class_weight: weight of the term ``class``.
        giou_weight: weight of the term ``giou``, of the box of the object's class, divided by all regions.
        when: as in :class:`Rule`.
    """
    terms = {
        "class": Term(RegionSoftmaxLoss(eos=1.0, gamma=0.0), class_weight, "mean"),
        "giou": Term(ClassBoxGIoULoss(), giou_weight, NumRegions()),
    }
    return Rule(RoIMatcher("all"), terms, when)
