"""What anchors of a proposal network answer for, and objects as proposals (Faster R-CNN, arXiv 1506.01497; TSP-RCNN).

Shape legend: A anchors of an image, G objects. Boxes are xyxy, in any one unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, iou_of_corners


@torch.no_grad()
def anchor_targets(anchors_A4: Tensor, boxes_G4: Tensor, low: float = 0.3, high: float = 0.7) -> tuple[Tensor, Tensor]:
    """What the anchors of one image are to a proposal network.

    An anchor that answers for an object answers for the one of highest IoU, of equal ones the first. It does if that
    is at least ``high``, or if it is the nearest to some object: no other anchor has a higher IoU with that object.
    Where no anchor overlaps an object, none is the nearest; in detectron2 all are, and so positive.

    Returns:
        (A,) int64 objects, -1 for none, and (A,) bool, anchors without an object whose IoU is below ``low``.
    """
    if not len(boxes_G4):
        none_A = torch.full_like(anchors_A4[:, 0], -1, dtype=torch.int64)
        return none_A, none_A < 0
    iou_GA = iou_of_corners(anchors_A4.unbind(-1), boxes_G4.to(anchors_A4.dtype)[:, None].unbind(-1), eps=0.0)[0]
    iou_A, gt_A = iou_GA.max(0)
    nearest_A = ((iou_GA == iou_GA.amax(1, keepdim=True)) & (iou_GA > 0)).any(0)
    positive_A = nearest_A | (iou_A >= high)
    return gt_A.where(positive_A, -1), (iou_A < low) & ~positive_A


def jittered(boxes_G4: Tensor, random_G4: Tensor) -> Tensor:
    """(G, 4) boxes whose centers move by up to a tenth of their size, and whose sides become 0.8 to 1.25 as long.

    Args:
        boxes_G4: xyxy.
        random_G4: numbers in [0, 1): of center x and y, width, height.
    """
    center_G2, size_G2 = box_xyxy_to_cxcywh(boxes_G4).split(2, -1)
    of_center_G2, of_size_G2 = random_G4.to(boxes_G4.dtype).split(2, -1)
    moved_G2 = center_G2 + size_G2 * (of_center_G2 - 0.5) * 0.2
    return box_cxcywh_to_xyxy(torch.cat([moved_G2, size_G2 * 0.8 ** (of_size_G2 * 2 - 1)], -1))
