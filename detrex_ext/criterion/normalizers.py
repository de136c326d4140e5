"""What sums of losses are divided by.

Convention: distributed training averages gradients over W ranks, so a sum over all ranks' objects divided by their
total is each rank's sum divided by total / W. Every normalizer is therefore the *mean over ranks* of what each counts.

With ``effective = (num_objects, num_images)``, the totals of an optimizer step over all micro-batches and all ranks,
nothing is counted or reduced: normalizers of objects and images use those totals / W, and the sum (not the mean) of
the micro-batches' losses is then exactly the loss of the whole batch. The others are scaled by the share of images,
which is exact only if every image contributes alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from detrex_ext.structures.placing import moved

from .supervision import Supervision

Count = float | Tensor


class Normalizer:
    """Base of all normalizers.

    Attributes:
        minimum: lower bound of the mean over ranks.
        scaled: whether the source's extra factor (``Given.scale``) multiplies it.
        of_batch: whether the count is the same for every stack of the batch.
    """

    minimum: float | None = 1.0
    scaled: bool = True
    of_batch: bool = False

    def count(self, s: Supervision) -> Count:
        """What this rank has: a number, or a tensor () or (N,)."""
        raise NotImplementedError

    def total(self, s: Supervision, effective: tuple[float, float]) -> Count:
        """What all micro-batches and ranks have, from the step's (objects, images)."""
        return self.count(s) * (effective[1] / max(1, s.stack.shape[1]))

    def finish(self, mean: Count) -> Count:
        """From the mean over ranks to the divisor: a number, or a tensor () or (N,)."""
        if self.minimum is None:
            return mean
        return mean.clamp(min=self.minimum) if isinstance(mean, Tensor) else max(mean, self.minimum)


class NumObjects(Normalizer):
    """Objects of the batch, matched or not.

    Args:
        factor: each counts as so many (one-to-many supervision).
    """

    of_batch = True

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def count(self, s: Supervision) -> Count:
        """See :meth:`Normalizer.count`."""
        return self.factor * s.targets.num

    def total(self, s: Supervision, effective: tuple[float, float]) -> Count:
        """See :meth:`Normalizer.total`."""
        return self.factor * effective[0]


class NumImages(Normalizer):
    """Images of the batch.

    Args:
        factor: each counts as so many (what a proposal network samples of one).
    """

    of_batch = True

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def count(self, s: Supervision) -> Count:
        """See :meth:`Normalizer.count`."""
        return self.factor * s.stack.shape[1]

    def total(self, s: Supervision, effective: tuple[float, float]) -> Count:
        """See :meth:`Normalizer.total`."""
        return self.factor * effective[1]


class NumPairs(Normalizer):
    """Box pairs of each set, by their weights."""

    def count(self, s: Supervision) -> Count:
        """See :meth:`Normalizer.count`."""
        return s.per_set(torch.ones_like(s.box_true_P4[:, 0]), s.assignment.box)


class Mean(Normalizer):
    """One, for a loss that is a mean already; with ``effective`` the number of micro-batches, by images."""

    minimum = None
    scaled = False

    def count(self, s: Supervision) -> Count:
        """See :meth:`Normalizer.count`."""
        return 1.0


NORMALIZERS: dict[str, Normalizer] = {
    "num_objects": NumObjects(),
    "num_images": NumImages(),
    "num_pairs": NumPairs(),
    "mean": Mean(),
}


def world_size() -> int:
    """Ranks that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def divisors(
    wanted: Sequence[tuple[Normalizer, Supervision]], effective: tuple[float, float] | None
) -> list[Count]:
    """The divisor of each wanted (normalizer, stack), with at most one all-reduce."""
    world = world_size()
    keys = [(id(n), None if n.of_batch else id(s)) for n, s in wanted]
    first: dict[tuple, tuple[Normalizer, Supervision]] = {}
    for key, pair in zip(keys, wanted, strict=True):
        first.setdefault(key, pair)
    if effective is not None:
        means = {key: n.total(s, effective) / world for key, (n, s) in first.items()}
    else:
        means = {key: n.count(s) for key, (n, s) in first.items()}
        if world > 1 and means:
            device = wanted[0][1].stack.device
            means = dict(zip(means, _mean_over_ranks(list(means.values()), world, device), strict=True))
    return [
        n.finish(means[key]) * (s.stack.given.scale if n.scaled else 1.0) * s.stack.given.sets
        for key, (n, s) in zip(keys, wanted, strict=True)
    ]


def _mean_over_ranks(counts: list[Count], world: int, device: torch.device) -> list[Tensor]:
    tensors = [c if isinstance(c, Tensor) else moved(torch.tensor(c), device) for c in counts]
    flat = torch.cat([t.detach().float().reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    parts = (flat / world).split([t.numel() for t in tensors])
    return [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)]
