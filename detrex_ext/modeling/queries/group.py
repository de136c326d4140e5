"""Group queries (Group-DETR, arXiv 2207.13085): K groups of queries in training, each matched one-to-one."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from detrex_ext.structures import Given, Memory, Queries, SupervisedSet, Targets
from detrex_ext.structures.queries import cat

from .base import QuerySource, WrappedSource


class GroupQueries(WrappedSource):
    """A host's queries and, in training, K - 1 further groups of as many, each from a source of its own.

    A group (``group``) attends to itself alone. All else is shared, but the first stage of a two-stage host is its
    source's, so that each group has one, supervised as the host's is. Losses are the mean over the groups, the host's
    among them. Inference is the host's.

    Keys: ``others.{i}.*`` for i in 0..K-2, as of the host's source, which is under ``source``.

    Args:
        source: the host's own source.
        groups: K.

    Raises:
        ValueError: a source that wraps another, one that learns nothing, or fewer than two groups.
    """

    def __init__(self, source: QuerySource, groups: int = 11) -> None:
        super().__init__(source)
        if groups < 2:
            raise ValueError(f"groups must be at least 2 (the host's own is one), got {groups}")
        if next(source.parameters(), None) is None:
            raise ValueError(f"{type(source).__name__} learns nothing: all groups of such queries would be the same")
        self.others = torch.nn.ModuleList(_another(source) for _ in range(groups - 1))

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; in training, the other groups stand before the source's own."""
        main, sets = self.source(mem, targets)
        if not self.training:
            return main, sets
        others = []
        for source in self.others:
            q, own = source(mem, targets)
            # one `Given` serves all sets of a group, so what each source knows of its own queries is not kept
            others.append(q.replace(slots=tuple(replace(s, group="group") for s in q.slots), given={}))
            sets = [*sets, *own]
        groups = 1 + len(others)
        given = {"main": replace(main.given.get("main", Given()), sets=groups), "group": Given(sets=groups)}
        return cat(*others, main).replace(given=given), [replace(s, given=replace(s.given, sets=groups)) for s in sets]


@torch.no_grad()
def _another(source: QuerySource) -> QuerySource:
    """A source like this one with other initial values of the same distribution: each column in another order."""
    other = copy.deepcopy(source)
    for p in other.parameters():
        if p.dim() > 1:
            p.copy_(p.gather(0, torch.rand_like(p).argsort(0)))
    return other
