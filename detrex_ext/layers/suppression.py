"""Suppression of boxes that better ones cover (non-maximum suppression).

Shape legend: B images, N candidates of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from detrex_ext.layers.cpu.common import exporting
from detrex_ext.structures.supervision import tokens_at

_LEAST = -1e30  # below any score, and finite, for runtimes differ in what they make of infinity


def best_of_duplicates(
    xyxy_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, iou: float, top_k: int | None
) -> Tensor:
    """Which candidates, given by descending score, are the first ``top_k`` that no better one of their group covers.

    Args:
        xyxy_BN4: in any unit.
        scores_BN: descending.
        groups_BN: int64; candidates of different groups do not cover each other.
        iou: overlap of two candidates above which the lower one is covered.
        top_k: most candidates of an image; None = all that are not covered.

    Returns:
        (B, N) bool.
    """
    keep_BN = torch.zeros_like(groups_BN, dtype=torch.bool)
    for keep_N, *candidates in zip(keep_BN, xyxy_BN4, scores_BN, groups_BN, strict=True):
        keep_N[batched_nms(*candidates, iou)[:top_k]] = True
    return keep_BN


def kept_in_one_call(
    xyxy_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, iou: float, most: int | None = None
) -> Tensor:
    """Which candidates no better one of their image and group covers, (B, N) bool, in a graph of any batch size.

    One suppression serves the whole batch: images lie side by side and groups below each other, none touching another.

    Args:
        xyxy_BN4: finite, in any unit.
        scores_BN: descending where there is a ``most``, else in any order.
        groups_BN: int64; candidates of different groups do not cover each other.
        iou: overlap of two candidates above which the lower one is covered.
        most: of an image, the first ones; None = all.
    """
    B, N = scores_BN.shape
    least = xyxy_BN4.min()
    apart = xyxy_BN4.max() - least + 1
    image_BN = torch.arange(B, device=xyxy_BN4.device)[:, None].expand(B, N)
    shift = torch.stack([image_BN, groups_BN, image_BN, groups_BN], -1).to(xyxy_BN4.dtype) * apart
    kept = _kept_by_operator if torch.compiler.is_compiling() and not exporting() else _kept
    kept_BN = kept((xyxy_BN4 - least + shift).flatten(0, 1), scores_BN.flatten(), iou).view(B, N)
    return kept_BN if most is None else kept_BN & (kept_BN.to(torch.int64).cumsum(1) <= most)


def _kept(xyxy_N4: Tensor, scores_N: Tensor, iou: float) -> Tensor:
    return torch.zeros_like(scores_N).scatter(0, nms(xyxy_N4, scores_N, iou), 1.0) > 0


# one node of a compiled graph, whose size does not depend on values as that of nms does
_kept_by_operator = torch.library.custom_op(
    "detrex_ext::kept", _kept, mutates_args=(), schema="(Tensor xyxy, Tensor scores, float iou) -> Tensor"
)


@_kept_by_operator.register_fake
def _(xyxy_N4: Tensor, scores_N: Tensor, iou: float) -> Tensor:
    return torch.empty_like(scores_N, dtype=torch.bool)


def best_in_graph(
    xyxy_BN4: Tensor, scores_BN: Tensor, usable_BN: Tensor, group_N: Tensor, iou: float, most: int
) -> tuple[Tensor, Tensor]:
    """The best of what is not covered, (B, R, 4), as many slots whatever is found; and which hold one, (B, R) bool.

    Args:
        xyxy_BN4: as in :func:`kept_in_one_call`.
        scores_BN: as in :func:`kept_in_one_call`.
        usable_BN: bool; others are as if they were not there, whatever they hold.
        group_N: int64, the same for all images.
        iou: as in :func:`kept_in_one_call`.
        most: R, or N where that is less.
    """
    boxes_BN4 = xyxy_BN4.where(usable_BN[..., None], 0.0)
    scores_BN = scores_BN.where(usable_BN, _LEAST)
    kept_BN = usable_BN & kept_in_one_call(boxes_BN4, scores_BN, group_N.expand_as(scores_BN), iou)
    index_BR = scores_BN.where(kept_BN, _LEAST).topk(min(most, scores_BN.shape[1]), 1).indices
    valid_BR = kept_BN.gather(1, index_BR)
    return tokens_at(boxes_BN4, index_BR) * valid_BR[..., None], valid_BR
