"""Focal losses whose positives learn how well their box lies.

Shape legend: N sets, B images, P pairs.
"""

from __future__ import annotations

from torch import Tensor

from detrex_ext.layers.box_ops import EPS, giou_of_corners, iou_of_corners

from .losses import SigmoidLoss
from .quality_losses import towards, weighted
from .supervision import Supervision


class SoftFocalLoss(SigmoidLoss):
    """A focal loss whose positives have a target t of their own, which subclasses answer (:meth:`target`).

    A positive costs alpha |t - p|^gamma (-t log p - (1 - t) log(1 - p)) times its pair's weight; all else costs
    (1 - alpha) p^gamma (-log(1 - p)).
    """

    def __init__(self, alpha: float, gamma: float, eps: float) -> None:
        if gamma < 1:
            raise ValueError(f"gamma must be at least 1, for the slope at the target, got {gamma}")
        if eps < 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        self.alpha, self.gamma, self.eps = alpha, gamma, eps

    @property
    def scale(self) -> float:
        """Weight of negatives."""
        return 1 - self.alpha

    def target(self, s: Supervision) -> Tensor:
        """(P,) targets of the class pairs, 0 to 1, without gradient."""
        raise NotImplementedError

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """See :meth:`SigmoidLoss.positive`."""
        target = self.target(s)
        return weighted(self.alpha * (target - x_P.sigmoid()).abs() ** self.gamma * towards(x_P, target), s)


class PositionLoss(SoftFocalLoss):
    """Position-supervised loss (Stable-DINO, arXiv 2304.04742): a positive learns how well its box lies.

    The target is IoU^power over the largest of the set's pairs in the image, so that the best box there has 1; the rest
    is of :class:`SoftFocalLoss`.

    Args:
        alpha: share of the positives.
        gamma: how much less an entry counts the closer it is to its target; at least 1.
        power: of the IoU.
        eps: added to the union of boxes, as for ``GIoULoss``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, power: float = 2.0, eps: float = EPS) -> None:
        super().__init__(alpha, gamma, eps)
        self.power = power

    def target(self, s: Supervision) -> Tensor:
        """See :meth:`SoftFocalLoss.target`."""
        target = iou_of_corners(*s.cls_corners, self.eps)[0] ** self.power
        pairs, (N, B, _, _) = s.assignment.cls, s.stack.shape
        image_P = pairs.set_P * B + pairs.img_P
        seen = target if pairs.valid_P is None else target * pairs.valid_P
        best = target.new_zeros(N * B).scatter_reduce(0, image_P, seen, "amax")[image_P]
        return target * (1 / (best + 1e-8)).clamp(min=1)


class GIoUAwareLoss(SoftFocalLoss):
    """GIoU-aware classification (Rank-DETR, arXiv 2310.08854): the target is (GIoU + 1) / 2 of a positive's box.

    The rest is of :class:`SoftFocalLoss`.

    Args:
        alpha: share of the positives.
        gamma: how much less an entry counts the closer it is to its target; at least 1.
        eps: added to the areas of boxes, as for ``GIoULoss``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, eps: float = EPS) -> None:
        super().__init__(alpha, gamma, eps)

    def target(self, s: Supervision) -> Tensor:
        """See :meth:`SoftFocalLoss.target`."""
        return (giou_of_corners(*s.cls_corners, self.eps) + 1) / 2
