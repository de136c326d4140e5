"""Random subsets of a batch, of static shapes and without a copy to the host.

Numbers come from torch's generator on the CPU, whose state is in checkpoints: a resumed run draws what the other would.

Shape legend: B images, Q candidates of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrex_ext.structures.placing import moved


def random_subset(of_BQ: Tensor, most: int, limit_B: Tensor | None = None) -> Tensor:
    """At most ``most`` of the marked candidates of each image, all subsets of that size being as likely.

    Args:
        of_BQ: bool, the candidates.
        most: how many, for all images.
        limit_B: how many at most for each image.

    Returns:
        (B, Q) bool.
    """
    key_BQ = moved(torch.rand(of_BQ.shape, dtype=torch.float32), of_BQ.device).masked_fill(~of_BQ, 2.0)
    index_BN = key_BQ.topk(min(most, of_BQ.shape[1]), 1, largest=False).indices
    taken_BN = of_BQ.gather(1, index_BN)
    if limit_B is not None:
        taken_BN = taken_BN & (torch.arange(index_BN.shape[1], device=of_BQ.device) < limit_B[:, None])
    return torch.zeros_like(of_BQ).scatter(1, index_BN, taken_BN)


def balanced_subset(positive_BQ: Tensor, negative_BQ: Tensor, number: int, share: float) -> Tensor:
    """``number`` candidates of each image, of them positive ones up to a share (Faster R-CNN, arXiv 1506.01497).

    Negative ones take what positive ones leave; where there are too few of them, the set is smaller.

    Args:
        positive_BQ: bool.
        negative_BQ: bool; candidates that are neither are never taken.
        number: of both together.
        share: of the positive ones at most.

    Returns:
        (B, Q) bool.
    """
    taken_BQ = random_subset(positive_BQ, int(number * share))
    return taken_BQ | random_subset(negative_BQ, number, number - taken_BQ.sum(1))


def marked_first(marked_BQ: Tensor, number: int) -> Tensor:
    """(B, ``number``) int64: the marked candidates in their order, then the others in theirs."""
    Q = marked_BQ.shape[1]
    return (marked_BQ * Q - torch.arange(Q, device=marked_BQ.device)).topk(number, 1).indices


def kept_shares(keep: float | Sequence[float]) -> tuple[float, float]:
    """The least and the greatest share that stays, from one number for both or the two.

    Raises:
        ValueError: they are not above 0, ascending and up to 1.
    """
    least, most = (keep, keep) if isinstance(keep, (int, float)) else tuple(keep)
    if not 0 < least <= most <= 1:
        raise ValueError(f"token_keep is a share above 0 and up to 1, or the least and the greatest; got {keep}")
    return float(least), float(most)
