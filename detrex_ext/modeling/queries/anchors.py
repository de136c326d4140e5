"""Learned anchor boxes: DAB-DETR (arXiv 2201.12329, section 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrex_ext.layers.box_ops import inverse_sigmoid
from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets

from .base import Extra, QuerySource, slots_of


class AnchorQueries(QuerySource):
    """Queries that are learned boxes, the same for every image; content starts at zero, or as learned patterns.

    Keys: ``anchor_box_embed.weight`` (Q, 4), logits of cxcywh, and with patterns ``patterns.weight`` (P, C).

    Args:
        num_queries: Q, anchors.
        dim: C.
        num_patterns: P contents that every anchor comes with, which makes P Q queries, pattern by pattern (Anchor
            DETR, arXiv 2109.07107); 0 = every anchor once, with zero content.
    """

    def __init__(self, num_queries: int = 300, dim: int = 256, num_patterns: int = 0) -> None:
        super().__init__()
        self.anchor_box_embed = nn.Embedding(num_queries, 4)
        with torch.no_grad():
            self.anchor_box_embed.weight[:, :2] = inverse_sigmoid(torch.rand(num_queries, 2))
        self.patterns = nn.Embedding(num_patterns, dim) if num_patterns else None
        if self.patterns is not None:
            nn.init.xavier_uniform_(self.patterns.weight)
        self.dim = dim

    def rows(self) -> nn.Embedding:
        """See :meth:`QuerySource.rows`."""
        return self.anchor_box_embed

    def forward(
        self, mem: Memory, targets: Targets | None = None, extra: Extra | None = None
    ) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; ``extra`` asks for queries behind the source's own."""
        content, ref = own = self._queries(self.anchor_box_embed.weight, mem)
        if extra is not None:
            content, ref = (torch.cat(pair) for pair in zip(own, self._queries(extra.rows, mem), strict=True))
        slots = slots_of(len(own[1]), extra, len(ref))
        content, ref = (x.expand(mem.tokens_BSC.shape[0], -1, -1) for x in (content, ref))
        return Queries(content, ref, slots), []

    def _queries(self, anchors: Tensor, mem: Memory) -> tuple[Tensor, Tensor]:
        """Content and references of anchors with every pattern."""
        ref = anchors.to(mem.valid_BL2.dtype).sigmoid()
        if self.patterns is None:
            return mem.tokens_BSC.new_zeros(len(ref), self.dim), ref
        return self.patterns.weight.repeat_interleave(len(ref), 0), ref.repeat(len(self.patterns.weight), 1)

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`QuerySource.place`."""
        return boxes_BT4, {}
