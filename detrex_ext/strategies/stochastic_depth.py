"""Stochastic depth of decoder stages: a training pass skips some of them.

Source: "Deep Networks with Stochastic Depth", arXiv 1603.09382, on the stages of a decoder as in an ablation of the
authors of query recollection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from .base import Strategy


class StochasticDepth(Strategy):
    """Every stage of a training pass is kept or skipped at random; inference runs all.

    The same stages are skipped for the whole batch and on every rank, drawn from torch's random numbers on the CPU. A
    skipped stage has neither sets nor gradients: with several processes ``train.ddp.find_unused_parameters=true``. In
    ``model.strategies`` it comes first, or passes that others add may be skipped. The overlay sees to both.

    Args:
        first, last: probability of keeping the first and the last stage; those between lie on a line. 1 to 0.5, or 0.9
            for both, are the authors'. If none is kept, the last one runs.
    """

    def __init__(self, first: float = 1.0, last: float = 0.5) -> None:
        for name, p in (("first", first), ("last", last)):
            if not 0 <= p <= 1:
                raise ValueError(f"{name} is a probability, got {p}")
        self.first, self.last = first, last

    def check(self, stages: int) -> None:
        """See :meth:`Strategy.check`."""
        if stages == 1:
            raise ValueError("stochastic depth needs a decoder of several stages, to skip some; this one has one")

    def plan(self, order: Sequence[int]) -> Sequence[int]:
        """See :meth:`Strategy.plan`."""
        keep = torch.rand(len(order)) < torch.linspace(self.first, self.last, len(order))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            seen = [keep.tolist()]
            dist.broadcast_object_list(seen, src=0)
            keep = torch.tensor(seen[0])
        return [layer for layer, on in zip(order, keep.tolist(), strict=True) if on] or [order[-1]]
