"""Costs in which class and box speak of each other.

Shape legend: N sets, B images, Q queries of a set, G objects of the batch (flat).
"""

from __future__ import annotations

from torch import Tensor

from detrex_ext.layers.box_ops import EPS

from .costs import Candidates, Cost, FocalClassCost


class PositionClassCost(FocalClassCost):
    """Position-modulated cost (Stable-DINO, arXiv 2304.04742): the focal class cost of p u^power instead of p.

    u is (GIoU + 1) / 2 of the pair over the largest of its image, so that the best box there keeps its probability.

    Args:
        weight: of the cost.
        alpha: share of the positives.
        gamma: how much less an easy entry counts.
        eps: inside the logarithms, see :class:`FocalClassCost`.
        power: of u.
        giou_eps: added to the areas of boxes, as for ``GIoUCost``.
    """

    whole = True

    def __init__(
        self,
        weight: float = 1.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        eps: float = 1e-8,
        power: float = 0.5,
        giou_eps: float = EPS,
    ) -> None:
        super().__init__(weight, alpha, gamma, eps)
        self.power, self.giou_eps = power, giou_eps

    def value(self, candidates: Candidates) -> Tensor:
        """See :meth:`Cost.value`."""
        stack, image_G = candidates.stack, candidates.image_G
        u_NGQ = candidates.giou(self.giou_eps).add_(1).div_(2).clamp_(min=0)
        if stack.given.valid_BQ is not None:
            u_NGQ = u_NGQ * stack.given.valid_BQ[image_G]
        N, B = stack.shape[:2]
        best_NB = u_NGQ.new_zeros(N, B).scatter_reduce(1, image_G.expand(N, -1), u_NGQ.amax(-1), "amax")
        u_NGQ = u_NGQ * (1 / (best_NB[:, image_G, None] + 1e-8)).clamp(min=1)
        return self.of_prob(candidates.prob() * u_NGQ**self.power)


class HighOrderCost(Cost):
    """-p IoU^power, for predictions that are good already (Rank-DETR, arXiv 2310.08854).

    Args:
        weight: of the cost.
        power: of the IoU.
        eps: added to the union of boxes, as for ``GIoUCost``.
    """

    def __init__(self, weight: float = 1.0, power: float = 4.0, eps: float = EPS) -> None:
        super().__init__(weight)
        self.power, self.eps = power, eps

    def value(self, candidates: Candidates) -> Tensor:
        """See :meth:`Cost.value`."""
        return (candidates.prob() * candidates.iou(self.eps) ** self.power).neg_()
