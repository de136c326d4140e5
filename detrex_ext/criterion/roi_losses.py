"""Losses of TSP-RCNN, and what the sum over its boxes is divided by (arXiv 2011.10881, section 4).

Shape legend: N sets, B images, Q regions of a set, K classes with "no object", P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detrex_ext.layers.box_ops import TINY, giou_of_corners
from detrex_ext.matching.places import objects_G4, sizes_B4
from detrex_ext.matching.roi_matcher import EPS

from .losses import Loss, check_kind
from .normalizers import Normalizer
from .supervision import Supervision

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class RegionSoftmaxLoss(Loss):
    """Cross-entropy in which easy background counts less; the *mean* by weights, its normalizer is ``"mean"``.

    The sum of e f CE over the sum of e: e is 1 for matched regions and ``eos`` for all others, f is 1 for matched ones
    and ``gamma`` (1 - p)^``gamma`` for all others, with p the probability of "no object", without a gradient. Padding
    does not count. Where nothing is matched in the whole batch, all regions are background.

    Args:
        eos: weight of regions that are not matched.
        gamma: how much less easy background counts; 0: f is 1 for all.
        empty: ``"background"``, or ``"nothing"``: no loss where nothing is matched in the batch, as the authors' code.
    """

    def __init__(self, eos: float = 0.1, gamma: float = 2.0, empty: str = "background") -> None:
        if empty not in ("background", "nothing"):
            raise ValueError(f"empty must be 'background' or 'nothing', got '{empty}'")
        self.eos, self.gamma, self.empty = eos, gamma, empty

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        check_kind(self, s, softmax=True)
        logits, pairs = s.stack.logits_NBQK, s.assignment.cls
        N, _, _, K = logits.shape
        rows = logits.reshape(-1, K)
        R, at_P = len(rows), s.cls_rows_P
        # one row more, for places that are no pairs
        at_P = at_P if pairs.valid_P is None else at_P.where(pairs.valid_P, R)
        target = torch.full((R + 1,), K - 1, device=rows.device).index_copy(0, at_P, s.cls_labels_P)[:R]
        matched = torch.zeros(R + 1, dtype=torch.bool, device=rows.device).index_fill(0, at_P, True)[:R]
        log_p = rows.log_softmax(-1)
        weight = matched.to(rows.dtype) * (1 - self.eos) + self.eos
        if s.query_weight_NBQ is not None:
            weight = weight * s.query_weight_NBQ.reshape(-1)
        value = F.nll_loss(log_p, target, reduction="none") * weight
        if self.gamma:
            hard = self.gamma * (1 - log_p[:, -1].detach().exp()) ** self.gamma
            value = value * hard.where(~matched, 1.0)
        value_N = value.view(N, -1).sum(1) / (weight.view(N, -1).sum(1) + 1e-6)
        return value_N if self.empty == "background" else value_N * matched.view(N, -1).any(1)


class DeltaLoss(Loss):
    """L1 of the outputs ``deltas`` (N, B, Q, K - 1, 4), at the class of each box pair's object.

    The target is what moves the region to the object: its center in shares of the region's size, and the logarithm of
    the ratio of their sizes, times ``weights`` (Faster R-CNN, arXiv 1506.01497, eq. 2).

    Args:
        weights: of the four.
    """

    def __init__(self, weights: tuple[float, float, float, float] = DELTA_WEIGHTS) -> None:
        self.weights = tuple(float(w) for w in weights)

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        pairs, prior = s.assignment.box, s.stack.given.prior
        if prior is None or prior.boxes_BQ4 is None:
            raise ValueError(f"the source of {s.stack.name(0)} names no regions: DeltaLoss is for TSP-RCNN's host")
        from_P4 = prior.boxes_BQ4.to(s.box_true_P4.dtype)[pairs.img_P, pairs.query_P]
        size_P2 = from_P4[:, 2:].clamp(min=TINY)
        shift_P2 = (s.box_true_P4[:, :2] - from_P4[:, :2]) / size_P2
        ratio_P2 = (s.box_true_P4[:, 2:].clamp(min=TINY) / size_P2).log()
        parts = (*shift_P2.unbind(-1), *ratio_P2.unbind(-1))
        true_P4 = torch.stack([w * x for w, x in zip(self.weights, parts, strict=True)], -1)
        if pairs.valid_P is not None:
            true_P4 = true_P4.where(pairs.valid_P[:, None], 0.0)
        return s.per_set((_at_class(s, "deltas") - true_P4).abs().sum(-1), pairs)


class ClassBoxGIoULoss(Loss):
    """1 - GIoU in pixels of the outputs ``class_boxes``, at the class of each box pair's object."""

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        pairs, pred_P4 = s.assignment.box, _at_class(s, "class_boxes")
        pred_P4 = pred_P4 * sizes_B4(s.targets, pred_P4)[pairs.img_P]
        true_P4 = objects_G4(s.targets, pred_P4)[pairs.gt_P]
        return s.per_set(1 - giou_of_corners(pred_P4.unbind(-1), true_P4.unbind(-1), EPS), pairs)


def _at_class(s: Supervision, name: str) -> Tensor:
    """(P, 4) output of each box pair at its object's class; the only one of a set that knows none."""
    values_NBQK4, pairs = s.stack.output(name), s.assignment.box
    K = values_NBQK4.shape[3]
    label_P = s.targets.labels_G[pairs.gt_P] if K > 1 else torch.zeros_like(pairs.gt_P)
    return values_NBQK4.reshape(-1, 4).index_select(0, s.box_rows_P * K + label_P)


class NumRegions(Normalizer):
    """Regions of the batch that are no padding, mean over ranks; the authors' code divides by each rank's own."""

    def count(self, s: Supervision) -> Tensor | float:
        """See :meth:`Normalizer.count`."""
        valid_BQ, (_, B, Q, _) = s.stack.given.valid_BQ, s.stack.shape
        return float(B * Q) if valid_BQ is None else valid_BQ.sum().to(s.stack.logits_NBQK.dtype)


class ObjectsAndImages(Normalizer):
    """Objects of the batch, and two for every image (TSP-RCNN's comparison with Hungarian matching)."""

    of_batch = True

    def count(self, s: Supervision) -> float:
        """See :meth:`Normalizer.count`."""
        return float(s.targets.num + 2 * s.stack.shape[1])

    def total(self, s: Supervision, effective: tuple[float, float]) -> float:
        """See :meth:`Normalizer.total`."""
        return effective[0] + 2 * effective[1]
