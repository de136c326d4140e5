"""Matching among the boxes that overlap an object (TSP-RCNN, arXiv 2011.10881, section 4.3).

Shape legend: N sets, B images, Q queries of a set, K classes, G objects of the batch (flat).
"""

from __future__ import annotations

from torch import Tensor

from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, giou_of_corners
from detrex_ext.layers.roi_targets import roi_targets
from detrex_ext.structures import Targets

from .places import objects_G4, sizes_B4
from .restricted import RestrictedMatcher
from .stack import Stack

EPS = 1e-7  # added to areas in pixels, as fvcore does


class RoIMatcher(RestrictedMatcher):
    """Every object takes the cheapest query whose first box overlaps it.

    A query is a candidate of the object that the box it begins with has the highest IoU with, from ``threshold`` on; a
    source may name the candidates itself. The cost is -p + ``w_giou`` (1 - GIoU), with p the probability of the
    object's class. Sets with an output ``class_boxes`` are compared by the box of the object's class.

    Args:
        take, box_on, eos, only_reweight_fg, w_giou: see :class:`RestrictedMatcher`.
        threshold: least IoU of a candidate.
        low_quality: the query that overlaps an object most is a candidate too, however little, unless it is one of
            another object: for boxes that no proposal network made.
    """

    def __init__(
        self,
        take: str = "best",
        box_on: str = "candidates",
        eos: float = 0.1,
        only_reweight_fg: bool = True,
        w_giou: float = 2.0,
        threshold: float = 0.5,
        low_quality: bool = False,
    ) -> None:
        super().__init__(take, box_on, eos, only_reweight_fg, w_giou)
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold, an IoU, must be above 0 and at most 1, got {threshold}")
        self.threshold, self.low_quality = threshold, low_quality

    def find(self, stack: Stack, targets: Targets) -> Tensor:
        """See :meth:`RestrictedMatcher.find`.

        Raises:
            ValueError: the source does not say with which boxes its queries begin.
        """
        prior, (_, B, Q, _) = stack.given.prior, stack.shape
        first_BQ4 = None if prior is None else prior.boxes_BQ4
        if first_BQ4 is None or first_BQ4.shape != (B, Q, 4):
            raise ValueError(
                f"the source of {stack.name(0)} does not say which boxes its {Q} queries begin with, which the RoI "
                "rule needs: TSP-RCNN and two-stage queries do, but not group queries"
            )
        scale_B14 = sizes_B4(targets, stack.boxes_NBQ4)[:, None]
        first_BQ4 = box_cxcywh_to_xyxy(first_BQ4.to(stack.boxes_NBQ4.dtype)) * scale_B14
        boxes_G4, valid_BQ = objects_G4(targets, first_BQ4), stack.given.valid_BQ
        return roi_targets(first_BQ4, boxes_G4, targets.image_G, self.threshold, valid_BQ, self.low_quality)

    def giou(self, stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor:
        """See :meth:`RestrictedMatcher.giou`; in pixels."""
        scale_B14 = sizes_B4(targets, stack.boxes_NBQ4)[:, None]
        true_BQ4 = objects_G4(targets, stack.boxes_NBQ4)[gt_BQ]
        if "class_boxes" in stack.sets[0].outputs:
            boxes_NBQ4 = of_class(stack.output("class_boxes"), targets.labels_G[gt_BQ])
        else:
            boxes_NBQ4 = box_cxcywh_to_xyxy(stack.match_boxes_NBQ4)
        return giou_of_corners((boxes_NBQ4 * scale_B14).unbind(-1), true_BQ4.unbind(-1), EPS)


def of_class(values_NBQK4: Tensor, label_BQ: Tensor) -> Tensor:
    """(N, B, Q, 4) values at a class of each query; those of the only class where the values know none."""
    N, _, _, K, _ = values_NBQK4.shape
    index_BQ = label_BQ if K > 1 else label_BQ * 0
    return values_NBQK4.gather(3, index_BQ[None, ..., None, None].expand(N, -1, -1, 1, 4))[..., 0, :]
