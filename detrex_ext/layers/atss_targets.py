"""Which anchor of a pyramid answers for which object, by adaptive selection (ATSS, arXiv 1912.02424, section 3.2).

The ``k`` anchors of each level whose centers are nearest to an object's are its candidates, of equally near ones the
first. A candidate answers for the object if its IoU with it is at least the mean plus the standard deviation of all of
its candidates', and its center lies in it. Of several objects the one of highest IoU takes the anchor.

Shape legend: B images, S anchors of all levels, G objects of the batch (flat), C candidates of an object. Boxes are
xyxy in pixels of one frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .box_ops import iou_of_corners
from .fcos_targets import ltrb
from .segments import first_least

INSIDE = 0.01  # pixels from a center to each side of its object at least, as in mmdetection


@torch.no_grad()
def atss_targets(
    anchors_S4: Tensor, sizes: Sequence[int], boxes_G4: Tensor, image_G: Tensor, valid_BS: Tensor, k: int = 9
) -> Tensor:
    """The object that each anchor answers for.

    Shapes depend on those of the arguments alone, and nothing is copied to the host.

    Args:
        anchors_S4: of all levels, side by side.
        sizes: anchors of each level.
        boxes_G4: objects.
        image_G: int64 image of each object.
        valid_BS: bool, False for an anchor that is none of the image.
        k: candidates of an object on each level, or all where there are fewer.

    Returns:
        (B, S) int64 flat objects, -1 for background.
    """
    (B, S), G = valid_BS.shape, len(boxes_G4)
    if not G:
        return torch.full((B, S), -1, dtype=torch.int64, device=valid_BS.device)
    boxes_G14, valid_GS = boxes_G4.to(anchors_S4.dtype)[:, None], valid_BS[image_G]
    center_S2 = (anchors_S4[:, :2] + anchors_S4[:, 2:]) / 2
    center_G12 = (boxes_G14[..., :2] + boxes_G14[..., 2:]) / 2
    far_GS = (center_S2 - center_G12).square().sum(-1).where(valid_GS, math.inf)
    index_GC = _nearest(far_GS, sizes, k)
    known_GC = valid_GS.gather(1, index_GC)
    iou_GC = iou_of_corners(anchors_S4[index_GC].unbind(-1), boxes_G14.unbind(-1), eps=0.0)[0]
    inside_GC = ltrb(center_S2[index_GC], boxes_G14.expand(-1, index_GC.shape[1], -1)).amin(-1) > INSIDE
    positive_GC = known_GC & inside_GC & (iou_GC >= _threshold(iou_GC, known_GC))
    place_GC = (index_GC + (image_G * S)[:, None]).where(positive_GC, B * S)
    entry = first_least(place_GC.flatten(), -iou_GC.flatten(), B * S)
    return (entry // index_GC.shape[1]).where(entry < index_GC.numel(), -1).view(B, S)


def _nearest(far_GS: Tensor, sizes: Sequence[int], k: int) -> Tensor:
    """(G, C) anchors of least distance of each level."""
    # one integer per anchor that orders as (distance, index): floats that are not negative order as their bits
    key_GS = far_GS.float().view(torch.int32).long() << 32
    key_GS = key_GS + torch.arange(far_GS.shape[1], device=far_GS.device)
    found = [of_level.topk(min(k, of_level.shape[1]), 1, largest=False).values for of_level in key_GS.split(sizes, 1)]
    return torch.cat(found, 1) & 0xFFFFFFFF


def _threshold(iou_GC: Tensor, known_GC: Tensor) -> Tensor:
    """(G, 1) mean plus standard deviation of known candidates; of fewer than two it is not a number."""
    count_G1 = known_GC.sum(1, keepdim=True)
    mean_G1 = (iou_GC * known_GC).sum(1, keepdim=True) / count_G1
    spread_G1 = ((iou_GC - mean_G1).square() * known_GC).sum(1, keepdim=True) / (count_G1 - 1)
    return mean_G1 + spread_G1.sqrt()
