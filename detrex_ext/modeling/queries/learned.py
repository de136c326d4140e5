"""Learned queries: DETR (arXiv 2005.12872) and one-stage Deformable-DETR (arXiv 2010.04159, section 4.1)."""

from __future__ import annotations

import torch
from torch import nn

from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets

from .base import Extra, QuerySource, all_rows, slots_of


class LearnedQueries(QuerySource):
    """Queries whose position, content and reference point are learned and the same for every image.

    Keys: ``query_embedding.weight`` (Q, 2C), position first, then content; ``reference_points``.

    Args:
        num_queries: Q.
        dim: C.
    """

    positioned = True

    def __init__(self, num_queries: int = 300, dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.query_embedding = nn.Embedding(num_queries, 2 * dim)
        self.reference_points = nn.Linear(dim, 2)
        nn.init.xavier_normal_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def rows(self) -> nn.Embedding:
        """See :meth:`QuerySource.rows`."""
        return self.query_embedding

    def forward(
        self, mem: Memory, targets: Targets | None = None, extra: Extra | None = None
    ) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; ``extra`` asks for queries behind the source's own."""
        pos, content = all_rows(self.query_embedding, extra).chunk(2, -1)
        points = self.reference_points(pos).to(mem.valid_BL2.dtype).sigmoid()
        ref = torch.cat([points, torch.zeros_like(points)], -1)
        slots = slots_of(len(self.query_embedding.weight), extra, len(ref), point=True)
        content, pos, ref = (x.expand(mem.tokens_BSC.shape[0], -1, -1) for x in (content, pos, ref))
        return Queries(content, ref, slots, extra={"query_pos": pos}), []


class PositionQueries(QuerySource):
    """Queries with a learned position and zero content, the same for every image (DETR, section 3.2).

    Keys: ``query_embed.weight`` (Q, C). Boxes are not relative to anything: references stay at 0.5, logit zero.

    Args:
        num_queries: Q.
        dim: C.
    """

    positioned = True

    def __init__(self, num_queries: int = 100, dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.query_embed = nn.Embedding(num_queries, dim)

    def rows(self) -> nn.Embedding:
        """See :meth:`QuerySource.rows`."""
        return self.query_embed

    def forward(
        self, mem: Memory, targets: Targets | None = None, extra: Extra | None = None
    ) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; ``extra`` asks for queries behind the source's own."""
        pos = all_rows(self.query_embed, extra).expand(mem.tokens_BSC.shape[0], -1, -1)
        content = mem.tokens_BSC.new_zeros(pos.shape)
        ref = mem.valid_BL2.new_full((*pos.shape[:2], 4), 0.5)
        slots = slots_of(len(self.query_embed.weight), extra, pos.shape[1])
        return Queries(content, ref, slots, extra={"query_pos": pos}), []
