"""Losses as small objects: each gives the unnormalized sum of every set of a stack.

Shape legend: N sets, B images, Q queries of a set, K classes, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detrex_ext.layers.box_ops import EPS, box_cxcywh_to_xyxy, corners, giou_of_corners

from .sigmoid import Correction, dense_sigmoid_loss, negative
from .supervision import Supervision


class Loss:
    """Base of all losses."""

    def __call__(self, s: Supervision) -> Tensor:
        """(N,) sums over images, queries and pairs, attached to the graph even where nothing is supervised."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"


class SigmoidLoss(Loss):
    """Sigmoid classification of every class on its own; background is all zeros.

    Every entry is a focal negative, ``scale`` p^gamma (-log(1 - p)), save those of the assignment's class pairs, where
    :meth:`positive` says. A damped pair's entry stays a negative, times the pair's weight. Queries of weight 0 do not
    count. No two (valid) class pairs may name one entry, the same query and class.

    Attributes:
        held: whether the p^gamma of negatives is a weight without a gradient.
    """

    scale: float
    gamma: float
    held = False

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """(P,) loss of the positive entries, including the pairs' weights.

        Args:
            x_P: their logits.
            s: what is supervised, for soft targets from its boxes, which get no gradient.
        """
        raise NotImplementedError

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        check_kind(self, s, softmax=False)
        query_NBQ = s.query_weight_NBQ
        weight_R = None if query_NBQ is None else query_NBQ.reshape(-1)
        logits, pairs, damp = s.stack.logits_NBQK, s.assignment.cls, s.assignment.damp
        K = logits.shape[-1]

        def background(x_P: Tensor) -> Tensor:
            return negative(x_P, self.scale, self.gamma, self.held)

        def of_query(value_P: Tensor, rows_P: Tensor) -> Tensor:
            return value_P if weight_R is None else value_P * weight_R[rows_P]

        corrections: list[Correction] = []
        if len(pairs):
            rows_P = s.cls_rows_P

            def corrected(x_P: Tensor) -> Tensor:
                value_P = of_query(self.positive(x_P, s) - background(x_P), rows_P)
                return value_P if pairs.valid_P is None else value_P * pairs.valid_P

            corrections.append((rows_P * K + s.cls_labels_P, corrected))
        if damp is not None and len(damp):
            entries = s.damp_entries_P
            corrections.append((entries, lambda x: of_query((damp.weight_P - 1) * background(x), entries // K)))
        return dense_sigmoid_loss(logits, self.scale, self.gamma, query_NBQ, corrections, self.held)


class FocalLoss(SigmoidLoss):
    """Sigmoid focal loss (Lin et al. 2017, eq. 5).

    alpha (1-p)^gamma (-log p) at positives, weighted by their pairs; (1-alpha) p^gamma (-log(1-p)) elsewhere.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    @property
    def scale(self) -> float:
        """Weight of negatives."""
        return 1 - self.alpha

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """See :meth:`SigmoidLoss.positive`."""
        # by symmetry a positive with logit x costs what a negative with logit -x costs
        value = negative(-x_P, self.alpha, self.gamma)
        weight = s.assignment.cls.weight_P
        return value if weight is None else value * weight


class SoftmaxLoss(Loss):
    """Cross-entropy over K classes, the last of them "no object", as DETR's.

    The *mean* over a set's queries, with weight 1 where matched and ``eos`` where not; the normalizer is ``"mean"``.

    Args:
        eos: weight of queries without an object (arXiv 2005.12872, section 3.2).
        zero: "no object" is no class of the logits, which a sigmoid reads, but one more with the constant logit 0.
    """

    def __init__(self, eos: float = 0.1, zero: bool = False) -> None:
        self.eos, self.zero = eos, zero

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        check_kind(self, s, softmax=not self.zero)
        logits, pairs = s.stack.logits_NBQK, s.assignment.cls
        logits = F.pad(logits, (0, 1)) if self.zero else logits
        N, _, _, K = logits.shape
        rows = logits.reshape(-1, K)
        R, at_P = rows.shape[0], s.cls_rows_P
        # one row more, for places that are no pairs
        at_P = at_P if pairs.valid_P is None else at_P.where(pairs.valid_P, R)
        target = torch.full((R + 1,), K - 1, device=rows.device)
        target[at_P] = s.cls_labels_P
        weight = rows.new_full((R + 1,), self.eos)
        # a number of the host would be waited for
        weight[at_P] = rows.new_ones(()) if pairs.weight_P is None else pairs.weight_P.to(rows.dtype)
        target, weight = target[:R], weight[:R]
        if s.query_weight_NBQ is not None:
            weight = weight * s.query_weight_NBQ.reshape(-1)
        value = F.cross_entropy(rows, target, reduction="none") * weight
        return value.view(N, -1).sum(1) / weight.view(N, -1).sum(1).clamp(min=1e-6)


def check_kind(loss: Loss, s: Supervision, softmax: bool) -> None:
    """A ``ValueError`` where the logits of a stack are not of the kind that a loss is for."""
    if s.stack.softmax != softmax:
        kinds = ("a sigmoid per class", "a softmax with 'no object' as its last class")
        fitting = "SoftmaxLoss" if s.stack.softmax else "a sigmoid loss such as FocalLoss"
        raise ValueError(
            f"{type(loss).__name__} is for {kinds[softmax]}, but the logits of {s.stack.name(0)} are "
            f"{kinds[s.stack.softmax]}: use {fitting}"
        )


class L1Loss(Loss):
    """Sum of absolute differences of the normalized coordinates of matched boxes.

    Args:
        xyxy: of the corners instead of cxcywh (Sparse R-CNN, AdaMixer).
    """

    def __init__(self, xyxy: bool = False) -> None:
        self.xyxy = xyxy

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        delta_P4 = s.box_pred_P4 - s.box_true_P4
        # corners are linear in cxcywh, so the difference may be converted
        delta_P4 = box_cxcywh_to_xyxy(delta_P4) if self.xyxy else delta_P4
        return s.per_set(delta_P4.abs().sum(-1), s.assignment.box)


class GIoULoss(Loss):
    """1 - GIoU of matched boxes (Rezatofighi et al. 2019).

    Args:
        eps: added to both denominators, which are areas as shares of the image: 1e-6 in detrex and in DINO's code, 0 in
            that of DETR, Deformable-DETR, H-DETR and DAC-DETR. mmdetection takes an area as 1e-6 pixels at least: 0.
    """

    def __init__(self, eps: float = EPS) -> None:
        if eps < 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        self.eps = eps

    def __call__(self, s: Supervision) -> Tensor:
        """See :meth:`Loss.__call__`."""
        giou_P = giou_of_corners(corners(s.box_pred_P4), corners(s.box_true_P4), self.eps)
        return s.per_set(1 - giou_P, s.assignment.box)
