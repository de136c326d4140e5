"""Assignments that are known before the model has predicted anything."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from detrex_ext.structures import Assignment, Pairs, Targets

from .base import Matcher
from .stack import Stack


class GivenMatcher(Matcher):
    """Takes fixed pairs, the same for every set of a stack.

    Args:
        source: ``"set"``: the pairs of the group's source (denoising: query r is the noised copy of object g);
            ``"targets"``: the pairs that came with the batch (distillation).
    """

    def __init__(self, source: str = "set") -> None:
        if source not in ("set", "targets"):
            raise ValueError(f"source must be 'set' or 'targets', not {source!r}")
        self.source = source

    def match(self, stack: Stack, targets: Targets) -> Assignment:
        """See :meth:`Matcher.match`; pairs of invalid queries get weight 0.

        Raises:
            ValueError: if queries are there but no pairs were given, or pairs name queries that are not there.
        """
        pairs = stack.given.pairs if self.source == "set" else targets.pairs
        N, _, Q, _ = stack.shape
        if pairs is None:
            if Q:
                where = "the set's source" if self.source == "set" else "Targets.pairs"
                raise ValueError(f"GivenMatcher(source='{self.source}'): no pairs from {where} for {stack.name(0)}")
            pairs = Pairs.empty(stack.device)
        if self.source == "targets" and len(pairs) and pairs.query_P.device.type == "cpu":
            last = int(pairs.query_P.max())  # on an accelerator indexing asserts by itself
            if last >= Q:
                raise ValueError(f"Targets.pairs name query {last}, but {stack.name(0)} has {Q} queries")
        weight_P = pairs.weight_P
        if stack.given.valid_BQ is not None:
            valid_P = stack.given.valid_BQ[pairs.img_P, pairs.query_P].to(stack.logits_NBQK.dtype)
            weight_P = valid_P if weight_P is None else weight_P * valid_P
        pairs = _repeat(replace(pairs, weight_P=weight_P), N)
        return Assignment(cls=pairs, box=pairs)

    def __repr__(self) -> str:
        return f"GivenMatcher(source={self.source!r})"


def _repeat(pairs: Pairs, N: int) -> Pairs:
    """The pairs of one set for each of N, set-major."""

    def tile(x: Tensor | None) -> Tensor | None:
        return x if x is None or N == 1 else x.repeat(N)

    set_P = torch.arange(N, device=pairs.set_P.device).repeat_interleave(len(pairs))
    rest = (pairs.img_P, pairs.query_P, pairs.gt_P, pairs.weight_P, pairs.valid_P)
    return Pairs(set_P, *(tile(x) for x in rest))
