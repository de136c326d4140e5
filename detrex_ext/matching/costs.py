"""What a pair (query, object) costs a matcher.

Costs are computed for the objects of a query's own image only: (N, G, Q) with the G objects of the batch side by side,
never for every query of the batch against every object of the batch.

Shape legend: N sets, B images, Q queries of a set, K classes, G objects of the batch (flat, image-major).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detrex_ext.layers.box_ops import EPS, Corners, giou_of_corners, iou_of_corners
from detrex_ext.structures import Targets

from .stack import Stack


@dataclass
class Candidates:
    """Predictions and objects as a cost sees them: every query of an object's image beside that object.

    Attributes:
        stack: predictions.
        labels_G, boxes_G4, image_G: some or all objects of the batch, on the same device.
    """

    stack: Stack
    labels_G: Tensor
    boxes_G4: Tensor
    image_G: Tensor

    def of_class(self, values_NBQK: Tensor) -> Tensor:
        """(N, G, Q) values at each object's class."""
        # indexed axes on either side of Q: the result comes as (G, N, Q)
        return values_NBQK[:, self.image_G, :, self.labels_G].transpose(0, 1)

    def of_image(self, values_NBQ: Tensor) -> Tensor:
        """(N, G, Q) values of the queries of each object's image."""
        return values_NBQ.index_select(1, self.image_G)

    def prob(self) -> Tensor:
        """(N, G, Q) probabilities of each object's class."""
        logits = self.stack.logits_NBQK
        if self.stack.softmax:
            return (self.of_class(logits) - self.of_image(logits.logsumexp(-1))).exp_()
        return self.of_class(logits).sigmoid_()

    def iou(self, eps: float = EPS) -> Tensor:
        """(N, G, Q) IoU of queries and objects."""
        return iou_of_corners(_corners(self.query_boxes), _corners(self.object_boxes), eps)[0]

    def giou(self, eps: float = EPS) -> Tensor:
        """(N, G, Q) generalized IoU of queries and objects."""
        return giou_of_corners(_corners(self.query_boxes), _corners(self.object_boxes), eps)

    @cached_property
    def query_boxes(self) -> tuple[Tensor, ...]:
        """cx, cy, w, h of the queries, each (N, G, Q)."""
        return tuple(self.of_image(x) for x in self.stack.match_boxes_NBQ4.unbind(-1))

    @cached_property
    def object_boxes(self) -> tuple[Tensor, ...]:
        """cx, cy, w, h of the objects, each (G, 1)."""
        return self.boxes_G4.to(self.stack.match_boxes_NBQ4.dtype).split(1, dim=1)


def candidates(stack: Stack, targets: Targets, rows: slice = slice(None)) -> Candidates:
    """Candidates of the objects ``rows`` of the batch, G of them."""
    return Candidates(stack, targets.labels_G[rows], targets.boxes_G4[rows], targets.image_G[rows])


class Cost:
    """A weighted term of the matching cost. Subclasses answer :meth:`value`, small for good pairs.

    Attributes:
        whole: whether a pair's cost depends on other objects of its image, so that all must be there.
    """

    whole = False

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def value(self, candidates: Candidates) -> Tensor:
        """Unweighted cost, (N, G, Q)."""
        raise NotImplementedError

    def __call__(self, candidates: Candidates) -> Tensor:
        """Weighted cost, (N, G, Q)."""
        value = self.value(candidates)
        return value if self.weight == 1 else value * self.weight

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"


class FocalClassCost(Cost):
    """Gain of making the object's class positive under the sigmoid focal loss (detrex; Deformable-DETR).

    alpha (1-p)^gamma (-log(p + eps)) - (1-alpha) p^gamma (-log(1-p + eps)), with ``eps`` 1e-8 in detrex and in the code
    of Deformable-DETR, H-DETR, DAC-DETR and DINO, 1e-12 in mmdetection (AdaMixer, SQR).
    """

    def __init__(self, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-8) -> None:
        super().__init__(weight)
        self.alpha, self.gamma, self.eps = alpha, gamma, eps

    def value(self, candidates: Candidates) -> Tensor:
        """See :meth:`Cost.value`."""
        return self.of_prob(candidates.of_class(candidates.stack.logits_NBQK).sigmoid_())

    def of_prob(self, p: Tensor) -> Tensor:
        """Of probabilities, elementwise."""
        q = 1 - p
        cost = (p + self.eps).log_().mul_(q**self.gamma).mul_(-self.alpha)
        return cost.addcmul_((q + self.eps).log_(), p**self.gamma, value=1 - self.alpha)


class SoftmaxClassCost(Cost):
    """Minus the softmax probability of the object's class (DETR, arXiv 2005.12872, section 3.1).

    Args:
        weight: of the cost.
        zero: "no object" is no class of the logits, but one more with the constant logit 0.
    """

    def __init__(self, weight: float = 1.0, zero: bool = False) -> None:
        super().__init__(weight)
        self.zero = zero

    def value(self, candidates: Candidates) -> Tensor:
        """See :meth:`Cost.value`."""
        logits = candidates.stack.logits_NBQK
        total_NBQ = logits.logsumexp(-1)
        if self.zero:
            total_NBQ = total_NBQ.logaddexp(torch.zeros_like(total_NBQ))
        return (candidates.of_class(logits) - candidates.of_image(total_NBQ)).exp_().neg_()


class L1Cost(Cost):
    """Sum of absolute differences of the four normalized coordinates, cxcywh or with ``xyxy`` those of the corners."""

    def __init__(self, weight: float = 1.0, xyxy: bool = False) -> None:
        super().__init__(weight)
        self.xyxy = xyxy

    def value(self, candidates: Candidates) -> Tensor:
        """See :meth:`Cost.value`."""
        pair = candidates.query_boxes, candidates.object_boxes
        cost = None
        for x, y in zip(*(map(_corners, pair) if self.xyxy else pair), strict=True):
            delta = (x - y).abs_()
            cost = delta if cost is None else cost.add_(delta)
        return cost


class GIoUCost(Cost):
    """Minus the generalized IoU, with ``eps`` added to its denominators: see ``GIoULoss`` for whose code has which."""

    def __init__(self, weight: float = 1.0, eps: float = EPS) -> None:
        super().__init__(weight)
        if eps < 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        self.eps = eps

    def value(self, candidates: Candidates) -> Tensor:
        """See :meth:`Cost.value`."""
        return candidates.giou(self.eps).neg_()


def _corners(cxcywh: tuple[Tensor, ...]) -> Corners:
    cx, cy, w, h = cxcywh
    return tuple(torch.add(c, s, alpha=a) for a in (-0.5, 0.5) for c, s in ((cx, w), (cy, h)))
