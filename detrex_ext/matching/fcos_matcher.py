"""Matching among the points that FCOS's rule gives an object (TSP-FCOS, arXiv 2011.10881, section 4.3).

Shape legend: N sets, B images, Q queries of a set, G objects of the batch (flat), L levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrex_ext.layers.box_ops import corners, giou_of_corners
from detrex_ext.layers.fcos_targets import (
    RADIUS,
    STRIDES,
    centerness,
    is_candidate,
    level_ranges,
    ltrb_giou,
    smallest,
)
from detrex_ext.structures import Targets
from detrex_ext.structures.placing import placed

from .places import candidate_ltrb, objects_G4, points_of
from .restricted import RestrictedMatcher
from .stack import Stack


class FCOSMatcher(RestrictedMatcher):
    """Every object takes the cheapest query whose point is a candidate by FCOS's rule.

    The cost of a candidate is -p (c + 1e-6) + ``w_giou`` (1 - GIoU), with p the probability of the object's class and
    c how central the point is in the object. Sets with an output ``ltrb`` are compared by it, in strides; others by
    their boxes. Which points are candidates: see :mod:`~detrex_ext.layers.fcos_targets`. A source may name them;
    otherwise every point is looked at with the objects of its image.

    Args:
        take, box_on, eos, only_reweight_fg, w_giou: see :class:`RestrictedMatcher`.
        radius: of the rule, in strides; None: all of a box.
        strides: pixels per cell of the host's levels, of which each is for objects of its own sizes.
    """

    def __init__(
        self,
        take: str = "best",
        box_on: str = "candidates",
        eos: float = 0.1,
        only_reweight_fg: bool = True,
        w_giou: float = 2.0,
        radius: float | None = RADIUS,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__(take, box_on, eos, only_reweight_fg, w_giou)
        self.strides = tuple(int(s) for s in strides)
        if not self.strides or any(a >= b for a, b in zip((0, *self.strides), self.strides, strict=False)):
            raise ValueError(f"strides must be positive and ascending, got {list(self.strides)}")
        if radius is not None and not radius > 0:
            raise ValueError(f"radius must be positive, or None for all of a box, got {radius}")
        self.radius = radius

    def find(self, stack: Stack, targets: Targets) -> Tensor:
        """See :meth:`RestrictedMatcher.find`."""
        points_BQ2, strides_BQ = points_of(stack, targets)
        B, Q, _ = points_BQ2.shape
        image_G, boxes_G4 = targets.image_G, objects_G4(targets, points_BQ2)
        coarser_BQL = strides_BQ[..., None] > placed(list(self.strides), strides_BQ)
        level_BQ = coarser_BQL.sum(-1).clamp(max=len(self.strides) - 1)
        low_L, high_L = placed(list(level_ranges(self.strides)), points_BQ2).unbind(1)
        own = (x.index_select(0, image_G) for x in (points_BQ2, strides_BQ, low_L[level_BQ], high_L[level_BQ]))
        radius = float("inf") if self.radius is None else self.radius
        candidate_GQ = is_candidate(*own, boxes_G4[:, None], radius)
        place_GQ = torch.arange(Q, device=image_G.device) + (image_G * Q)[:, None]
        return smallest(candidate_GQ, place_GQ, boxes_G4, B * Q).view(B, Q)

    def centrality(self, stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor:
        """See :meth:`RestrictedMatcher.centrality`."""
        return centerness(candidate_ltrb(stack, targets, gt_BQ)) + 1e-6

    def giou(self, stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor:
        """See :meth:`RestrictedMatcher.giou`."""
        if "ltrb" in stack.sets[0].outputs:
            return ltrb_giou(stack.output("ltrb"), candidate_ltrb(stack, targets, gt_BQ))
        pred = stack.match_boxes_NBQ4
        return giou_of_corners(corners(pred), corners(targets.boxes_G4.to(pred.dtype)[gt_BQ]))
