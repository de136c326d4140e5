"""Suppression that lowers the scores of overlapping boxes instead of dropping them (arXiv 1704.04503).

Shape legend: N boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .box_ops import iou_of_corners

KINDS = ("linear", "gaussian")
PRUNE = 1e-3  # a box whose score is lowered to this or less is dropped


def soft_nms(
    boxes_N4: Tensor,
    scores_N: Tensor,
    groups_N: Tensor,
    kind: str = "linear",
    iou: float = 0.5,
    sigma: float = 0.5,
    top_k: int | None = None,
) -> Tensor:
    """Lowered scores, 0 where a box is dropped; the best box is taken, the others of its group are lowered, and so on.

    Args:
        boxes_N4: xyxy, in any unit.
        scores_N: not negative.
        groups_N: int64; boxes of different groups do not lower each other.
        kind: the factor of a box by its IoU o with the one that is taken: ``linear``: 1 - o where o is above ``iou``;
            ``gaussian``: exp(-o^2 / ``sigma``).
        iou: see ``kind``.
        sigma: see ``kind``.
        top_k: most boxes that are taken, the rest are dropped; None = all.

    Returns:
        (N,) scores.
    """
    left_N, out_N = scores_N.clone(), torch.zeros_like(scores_N)
    for _ in range(min(len(scores_N), len(scores_N) if top_k is None else top_k)):
        best = left_N.argmax()
        out_N[best] += left_N[best]  # 0 where all are dropped
        left_N[best] = 0
        o_N = iou_of_corners(boxes_N4.unbind(-1), boxes_N4[best].unbind(-1), eps=0.0)[0]
        factor_N = (1 - o_N).where(o_N > iou, 1.0) if kind == "linear" else (-o_N.square() / sigma).exp()
        left_N *= factor_N.where(groups_N == groups_N[best], 1.0)
        left_N *= left_N > PRUNE
    return out_N
