"""Where the tokens of a set and the objects they may answer for are, in pixels of the valid image.

Shape legend: B images, Q queries of a set, G objects of the batch (flat), P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.layers.fcos_targets import ltrb
from detrex_ext.structures import Targets

from .stack import Stack


def sizes_B4(targets: Targets, like: Tensor) -> Tensor:
    """Width, height, width and height of each image."""
    return targets.image_hw_B2.flip(1).repeat(1, 2).to(like.dtype)


def objects_G4(targets: Targets, like: Tensor) -> Tensor:
    """The objects, xyxy in pixels."""
    return box_cxcywh_to_xyxy(targets.boxes_G4.to(like.dtype)) * sizes_B4(targets, like)[targets.image_G]


def points_of(stack: Stack, targets: Targets) -> tuple[Tensor, Tensor]:
    """Points (B, Q, 2) that tokens stand for, and strides (B, Q) of their levels.

    Raises:
        ValueError: the source of the set does not say.
    """
    prior, like = stack.given.prior, stack.boxes_NBQ4
    if prior is None or prior.points_BQ2 is None or prior.strides_BQ is None:
        raise ValueError(
            f"the source of {stack.name(0)} does not say at which points its {stack.shape[2]} queries are, which the "
            "FCOS rule needs: TSP-FCOS and two-stage queries do, but not group queries"
        )
    return prior.points_BQ2.to(like.dtype) * sizes_B4(targets, like)[:, None, :2], prior.strides_BQ.to(like.dtype)


def candidates_of(stack: Stack) -> Tensor | None:
    """(B, Q) flat objects that the source says each token may answer for, -1 for none; None where it does not say."""
    prior = stack.given.prior
    if prior is None or prior.candidate_gt_BQ is None:
        return None
    gt_BQ, valid_BQ = prior.candidate_gt_BQ, stack.given.valid_BQ
    return gt_BQ if valid_BQ is None else gt_BQ.where(valid_BQ, -1)


def of_points(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) of points to the sides of boxes, in strides; a stride of 0, of padding, counts as 1."""
    return ltrb(points, boxes) / strides.where(strides > 0, 1.0)[..., None]


def candidate_ltrb(stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor:
    """(B, Q, 4) distances, in strides, of each token to the sides of its candidate object; zeros where it has none."""
    points_BQ2, strides_BQ = points_of(stack, targets)
    if not targets.num:
        return torch.zeros_like(points_BQ2).repeat(1, 1, 2)
    boxes_BQ4 = objects_G4(targets, points_BQ2)[gt_BQ.clamp(min=0)]
    return of_points(points_BQ2, strides_BQ, boxes_BQ4).where((gt_BQ >= 0)[..., None], 0.0)
