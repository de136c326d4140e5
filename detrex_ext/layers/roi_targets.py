"""Which object each box of an image may answer for, by their IoU (Faster R-CNN's rule for its second stage).

Shape legend: B images, Q boxes of an image, G objects of the batch (flat). Boxes are xyxy, in any one unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .box_ops import iou_of_corners
from .segments import first_least


@torch.no_grad()
def roi_targets(
    boxes_BQ4: Tensor,
    gt_boxes_G4: Tensor,
    image_G: Tensor,
    threshold: float = 0.5,
    valid_BQ: Tensor | None = None,
    low_quality: bool = False,
) -> Tensor:
    """The object of highest IoU of each box, of equal ones the first, if that IoU is at least ``threshold``.

    Shapes depend on those of the arguments alone, and nothing is copied to the host.

    Args:
        boxes_BQ4: proposals.
        gt_boxes_G4: objects.
        image_G: int64 image of each object.
        threshold: least IoU.
        valid_BQ: bool, False for boxes that may answer for none.
        low_quality: a box without an object has that whose best box it is, if they overlap, as region proposals have
            (arXiv 1506.01497, section 3.1.2). False: no object is promised a box.

    Returns:
        (B, Q) int64 flat objects, -1 for none.
    """
    (B, Q, _), G = boxes_BQ4.shape, len(gt_boxes_G4)
    if not G or not Q:
        return torch.full((B, Q), -1, dtype=torch.int64, device=boxes_BQ4.device)
    own_GQ4 = boxes_BQ4.index_select(0, image_G)
    theirs = gt_boxes_G4.to(boxes_BQ4.dtype)[:, None].unbind(-1)
    iou_GQ = iou_of_corners(own_GQ4.unbind(-1), theirs, eps=0.0)[0]
    if valid_BQ is not None:
        iou_GQ = iou_GQ.where(valid_BQ[image_G], -1.0)
    found_BQ = _best_object(iou_GQ, iou_GQ >= threshold, image_G, B)
    if not low_quality:
        return found_BQ
    most_G1, first_G1 = iou_GQ.max(1, keepdim=True)
    is_first_GQ = torch.arange(Q, device=image_G.device) == first_G1
    return found_BQ.where(found_BQ >= 0, _best_object(iou_GQ, is_first_GQ & (most_G1 > 0), image_G, B))


def _best_object(iou_GQ: Tensor, may_GQ: Tensor, image_G: Tensor, images: int) -> Tensor:
    """(B, Q) object of highest IoU among those that each box may have, -1 for none."""
    G, Q = iou_GQ.shape
    place_GQ = torch.arange(Q, device=image_G.device) + (image_G * Q)[:, None]
    place_GQ = place_GQ.where(may_GQ, images * Q)
    entry = first_least(place_GQ.flatten(), -iou_GQ.flatten(), images * Q)
    return (entry // Q).where(entry < G * Q, -1).view(images, Q)
