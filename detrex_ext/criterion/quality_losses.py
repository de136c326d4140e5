"""Classification that also learns how good the box is: targets are the quality of a pair instead of one.

Shape legend: P pairs.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from detrex_ext.matching import aligned_quality

from .losses import SigmoidLoss
from .sigmoid import negative
from .supervision import Supervision


class AlignedLoss(SigmoidLoss):
    """IoU-aware binary cross-entropy (IA-BCE; Align-DETR, arXiv 2304.07527, section 3.2; DAC-DETR's choice).

    A positive with probability p and box IoU u has the soft target t = w max(p^alpha u^(1 - alpha), 0.01), without a
    gradient and with w its pair's weight, and costs -t log p - (1 - t) log(1 - p). All else costs
    p^gamma (-log(1 - p)).

    Args:
        alpha: share of the class in the target.
        gamma: of negatives.
    """

    scale = 1.0

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """See :meth:`SigmoidLoss.positive`."""
        target = aligned_quality(x_P.detach().sigmoid(), s.cls_iou_P, self.alpha)
        weight = s.assignment.cls.weight_P
        target = target if weight is None else target * weight
        return towards(x_P, target)


class VarifocalLoss(SigmoidLoss):
    """Varifocal loss (VarifocalNet, arXiv 2008.13367, eq. 2): a positive learns the IoU q of its box, and counts by it.

    A positive costs -q (q log p + (1 - q) log(1 - p)) times its pair's weight; all else, and a positive whose box
    misses its object, costs alpha p^gamma (-log(1 - p)).

    Args:
        alpha: weight of negatives.
        gamma: of negatives.
    """

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    @property
    def scale(self) -> float:
        """Weight of negatives."""
        return self.alpha

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """See :meth:`SigmoidLoss.positive`."""
        target = s.cls_iou_P
        value = weighted(target * towards(x_P, target), s)
        return value.where(target > 0, negative(x_P, self.alpha, self.gamma))


class QualityFocalLoss(SigmoidLoss):
    """Quality focal loss (Generalized Focal Loss, arXiv 2006.04388, eq. 3): a positive learns the IoU y of its box.

    A positive costs |y - p|^beta (-y log p - (1 - y) log(1 - p)) times its pair's weight; all else is the same with
    y = 0.

    Args:
        beta: how much less an entry counts the closer it is to its target; at least 1, for the slope at the target.
    """

    scale = 1.0

    def __init__(self, beta: float = 2.0) -> None:
        if beta < 1:
            raise ValueError(f"beta must be at least 1, got {beta}")
        self.beta = beta

    @property
    def gamma(self) -> float:
        """Of negatives."""
        return self.beta

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """See :meth:`SigmoidLoss.positive`."""
        target = s.cls_iou_P
        return weighted((target - x_P.sigmoid()).abs() ** self.beta * towards(x_P, target), s)


class MatchabilityLoss(SigmoidLoss):
    """Matchability-aware loss (MAL; DEIM, arXiv 2412.04234): a positive learns a power of the IoU q of its box.

    A positive costs -q^gamma log p - (1 - q^gamma) log(1 - p) times its pair's weight, also where q = 0: a box that
    misses its object is a negative of full weight. All else costs p^gamma (-log(1 - p)), with p^gamma as a weight that
    gets no gradient, as in the authors' code.

    Args:
        gamma: of targets and negatives.
    """

    scale = 1.0
    held = True

    def __init__(self, gamma: float = 1.5) -> None:
        self.gamma = gamma

    def positive(self, x_P: Tensor, s: Supervision) -> Tensor:
        """See :meth:`SigmoidLoss.positive`."""
        return weighted(towards(x_P, s.cls_iou_P**self.gamma), s)


def towards(x: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(x) with a target between 0 and 1, elementwise."""
    return target * F.softplus(-x, threshold=40) + (1 - target) * F.softplus(x, threshold=40)


def weighted(value_P: Tensor, s: Supervision) -> Tensor:
    """(P,) values of the class pairs, times their pairs' weights."""
    weight = s.assignment.cls.weight_P
    return value_P if weight is None else value_P * weight
