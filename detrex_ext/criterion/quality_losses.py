"""Classification that also learns how good the box is: targets are the quality of a pair instead of one.

Shape legend: P pairs.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from detrex_ext.matching import aligned_quality

from .losses import SigmoidLoss
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
        return target * F.softplus(-x_P, threshold=40) + (1 - target) * F.softplus(x_P, threshold=40)
