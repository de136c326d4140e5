"""Losses of TSP-FCOS beside classification, and what sums over candidates are divided by (arXiv 2011.10881, section 4).

Shape legend: N sets, B images, Q tokens of a set, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detrex_ext.layers.fcos_targets import centerness, ltrb_giou
from detrex_ext.matching.places import candidate_ltrb, candidates_of, objects_G4, of_points, points_of

from .losses import Loss
from .normalizers import Normalizer
from .supervision import Supervision

DENORMS = ("all", "set", "mixed", "mixed_2x")


def _candidates(s: Supervision) -> Tensor:
    """(B, Q) flat candidate objects of a set whose source names them."""
    gt_BQ = candidates_of(s.stack)
    if gt_BQ is None:
        raise ValueError(f"the source of {s.stack.name(0)} names no candidates: losses of TSP-FCOS are for its host")
    return gt_BQ


def true_ltrb(s: Supervision) -> Tensor:
    """(P, 4) distances of each box pair's point to its object, in strides; ones at places that are no pairs."""
    pairs = s.assignment.box
    points_BQ2, strides_BQ = points_of(s.stack, s.targets)
    points_P2, strides_P = (x[pairs.img_P, pairs.query_P] for x in (points_BQ2, strides_BQ))
    true_P4 = of_points(points_P2, strides_P, objects_G4(s.targets, points_P2)[pairs.gt_P])
    return true_P4 if pairs.valid_P is None else true_P4.where(pairs.valid_P[:, None], 1.0)


class CentralGIoULoss(Loss):
    """1 - GIoU of the outputs ``ltrb`` of box pairs, in strides, each times the centerness of its point."""

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        pred_P4 = s.stack.output("ltrb").reshape(-1, 4).index_select(0, s.box_rows_P)
        true_P4 = true_ltrb(s)
        return s.per_set(centerness(true_P4) * (1 - ltrb_giou(pred_P4, true_P4)), s.assignment.box)


class CenternessLoss(Loss):
    """Binary cross-entropy of the outputs ``centerness`` of all candidates, whoever is matched (arXiv 1904.01355)."""

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        logit_NBQ, gt_BQ = s.stack.output("centerness"), _candidates(s)
        target_BQ = centerness(candidate_ltrb(s.stack, s.targets, gt_BQ))
        value_NBQ = F.binary_cross_entropy_with_logits(logit_NBQ, target_BQ.expand_as(logit_NBQ), reduction="none")
        return (value_NBQ * (gt_BQ >= 0)).flatten(1).sum(1)


class NumCandidates(Normalizer):
    """Tokens that may answer for an object, matched or not."""

    def count(self, s: Supervision) -> Tensor:
        """See :meth:`Normalizer.count`."""
        return (_candidates(s) >= 0).sum().to(s.stack.logits_NBQK.dtype)


class SumOfCenterness(Normalizer):
    """Centerness of all box pairs.

    Args:
        minimum: of the mean over ranks.
    """

    def __init__(self, minimum: float = 1e-6) -> None:
        self.minimum = minimum

    def count(self, s: Supervision) -> Tensor:
        """See :meth:`Normalizer.count`."""
        return s.per_set(centerness(true_ltrb(s)), s.assignment.box)


class ClassDenorm(Normalizer):
    """What the classification of TSP-FCOS is divided by, of matched tokens M and candidates C, each at least 1.

    Args:
        kind: ``"all"``: C; ``"set"``: M; ``"mixed"``: M + ``eos`` C; ``"mixed_2x"``: twice that, as its code has it.
        eos: the weight of candidates that are not matched.
    """

    def __init__(self, kind: str = "mixed_2x", eos: float = 0.1) -> None:
        if kind not in DENORMS:
            raise ValueError(f"class_denorm must be one of {', '.join(DENORMS)}, got '{kind}'")
        self.kind, self.eos = kind, eos

    def count(self, s: Supervision) -> Tensor:
        """(2, N) matched tokens and candidates."""
        ones = torch.ones_like(s.cls_labels_P, dtype=s.stack.logits_NBQK.dtype)
        matched_N = s.per_set(ones, s.assignment.cls)
        return torch.stack([matched_N, (_candidates(s) >= 0).sum().to(matched_N.dtype).expand_as(matched_N)])

    def finish(self, mean: Tensor) -> Tensor:
        """See :meth:`Normalizer.finish`."""
        matched_N, candidates_N = mean.clamp(min=1).unbind(0)
        if self.kind in ("all", "set"):
            return candidates_N if self.kind == "all" else matched_N
        return (matched_N + self.eos * candidates_N) * (2 if self.kind == "mixed_2x" else 1)
