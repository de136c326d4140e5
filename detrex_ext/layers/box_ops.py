"""Box arithmetic; guards against empty boxes and infinite logits are detrex's where nothing else is asked for.

Shape legend: N and M boxes; ``...`` any leading axes, which broadcast. Boxes are cxcywh or xyxy as named, in any unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6  # added to both denominators of IoU and GIoU, as in detrex and in DINO's code
TINY = 1e-12  # where nothing is added, the least that an area divides by: empty boxes stay finite, all others are exact
LOGIT_EPS = 1e-3  # how near to 0 and 1 logits are taken, as in detrex and in DINO's code

Corners = tuple[Tensor, Tensor, Tensor, Tensor]


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) center and size to (..., 4) corners."""
    return torch.stack(corners(boxes), -1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to (..., 4) center and size."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


def corners(boxes_cxcywh: Tensor) -> Corners:
    """The four corner coordinates x0, y0, x1, y1 of (..., 4) cxcywh boxes, each (...)."""
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    return cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h


def iou_of_corners(a: Corners, b: Corners, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """IoU and union of boxes given as separate coordinates that broadcast.

    Args:
        a: x0, y0, x1, y1 of some boxes.
        b: those of the others.
        eps: added to the denominator. 0 adds nothing, as in the code of DETR, Deformable-DETR, H-DETR and DAC-DETR; an
            area below ``TINY`` then counts as that, so that empty boxes have an IoU of 0.

    Returns:
        (iou, union), each of the broadcast shape.
    """
    inner_w = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp(min=0)
    inner_h = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp(min=0)
    inter = inner_w * inner_h
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / _guarded(union, eps), union


def giou_of_corners(a: Corners, b: Corners, eps: float = EPS) -> Tensor:
    """Generalized IoU of boxes given as separate coordinates that broadcast.

    IoU - (C - U) / (C + eps), with C the smallest enclosing box (Rezatofighi et al. 2019, algorithm 1) and ``eps`` as
    for :func:`iou_of_corners`.
    """
    iou, union = iou_of_corners(a, b, eps)
    hull_w = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    hull_h = torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    hull = hull_w * hull_h
    return iou - (hull - union) / _guarded(hull, eps)


def _guarded(area: Tensor, eps: float) -> Tensor:
    return area + eps if eps else area.clamp(min=TINY)


def box_iou_elementwise(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Elementwise IoU of (..., 4) corner boxes whose leading axes broadcast; returns (...)."""
    return iou_of_corners(a_xyxy.unbind(-1), b_xyxy.unbind(-1))[0]


def box_iou_pairwise(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU of every one of (..., N, 4) with every one of (..., M, 4) corner boxes; returns (..., N, M)."""
    return box_iou_elementwise(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :])


def box_iof_pairwise(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Share of the area of every one of (..., N, 4) that lies in every one of (..., M, 4); returns (..., N, M)."""
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    area = (a[..., 2:] - a[..., :2]).prod(-1)
    return inner.clamp(min=0).prod(-1) / area.clamp(min=EPS)


def generalized_box_iou_elementwise(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Elementwise GIoU of (..., 4) corner boxes whose leading axes broadcast; returns (...), in (-1, 1]."""
    return giou_of_corners(a_xyxy.unbind(-1), b_xyxy.unbind(-1))


def inverse_sigmoid(x: Tensor, eps: float = LOGIT_EPS) -> Tensor:
    """log(max(x, eps) / max(1 - x, eps)) of x clamped to [0, 1], elementwise.

    1e-3 is detrex's and DINO's ``eps``; Deformable-DETR, H-DETR, DAC-DETR and mmdetection have 1e-5.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def checked_logit_eps(eps: float) -> float:
    """The ``eps`` of :func:`inverse_sigmoid` that a part was asked for.

    Raises:
        ValueError: not between 0 and 0.5.
    """
    if not 0 < eps < 0.5:
        raise ValueError(f"inverse_sigmoid_eps must be above 0 and below 0.5, got {eps}")
    return eps
