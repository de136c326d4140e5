"""How many queries are near each object, and how near the nearest is.

Shape legend: N sets, B images, G objects of the batch (flat), Q queries of a set, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...layers.box_ops import TINY
from ...matching import OneToManyMatcher, Stack, candidates
from ...structures import Targets

AFFINITIES = ("mix", "iou", "aligned")


def affinity(stack: Stack, targets: Targets, kind: str = "mix") -> Tensor:
    """(N, G, Q) affinity of every object and every query of its image.

    Args:
        stack: predictions.
        targets: objects.
        kind: ``mix``: 0.7 IoU + 0.3 p of the object's class, what divide-and-conquer matches by; ``iou``; ``aligned``:
            p^0.25 IoU^0.75.

    Raises:
        ValueError: another kind.
    """
    if kind not in AFFINITIES:
        raise ValueError(f"affinity must be one of {', '.join(AFFINITIES)}, got '{kind}'")
    if kind == "mix":
        return OneToManyMatcher().score(stack, targets)
    seen = candidates(stack, targets)
    iou = seen.iou(TINY)
    return iou if kind == "iou" else seen.prob() ** 0.25 * iou.clamp(min=0) ** 0.75


@dataclass
class _Image:
    """Sums over the objects of one image: queries above each threshold (N, T), best affinity (N,)."""

    objects: int
    above_NT: Tensor
    best_N: Tensor


class QueriesPerObject:
    """Mean number of queries per object whose affinity exceeds a threshold, and mean best affinity of an object.

    A query counts for every object that it is near to; all queries count, whatever their score.

    Args:
        thresholds: of the affinity.
    """

    def __init__(self, thresholds: tuple[float, ...]) -> None:
        self.thresholds = thresholds
        self.images: dict[int, _Image] = {}

    def add(self, images: list[int], affinity_NGQ: Tensor, targets: Targets) -> None:
        """Take a batch.

        Args:
            images: index of each image; one that comes again counts once.
            affinity_NGQ: of its objects.
            targets: these objects.
        """
        above_NGT = torch.stack([(affinity_NGQ > t).sum(-1) for t in self.thresholds], -1)
        best_NG = affinity_NGQ.amax(-1).double()
        parts = (above_NGT.cpu().split(targets.counts, 1), best_NG.cpu().split(targets.counts, 1))
        for image, objects, above_NgT, best_Ng in zip(images, targets.counts, *parts, strict=True):
            self.images[image] = _Image(objects, above_NgT.sum(1), best_Ng.sum(1))

    def merge(self, other: QueriesPerObject) -> None:
        """Take the images of another process; those known already stay."""
        self.images = {**other.images, **self.images}

    @property
    def objects(self) -> int:
        """Objects of all images taken."""
        return sum(p.objects for p in self.images.values())

    def result(self) -> tuple[Tensor, Tensor]:
        """Queries per object above each threshold (N, T), and mean best affinity (N,).

        Raises:
            ValueError: there was no object.
        """
        if not self.objects:
            raise ValueError("queries per object of no objects: add images with some first")
        found = [self.images[i] for i in sorted(self.images)]
        above_NT, best_N = (torch.stack([getattr(p, name) for p in found]).sum(0) for name in ("above_NT", "best_N"))
        return above_NT.double() / self.objects, best_N / self.objects
