"""Hybrid queries (H-DETR, arXiv 2207.13080, section 3.2): extra queries in training, matched one-to-many."""

from __future__ import annotations

import torch
from torch import nn

from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets

from .base import Extra, QuerySource, WrappedSource


class HybridQueries(WrappedSource):
    """A host's queries and, in training, extra ones: group ``hybrid``, which attend to themselves alone.

    Extra queries are of the host's kind: with rows of their own where its queries are learned, and in a two-stage host
    from the best proposals after those of its own queries. Encoder, heads and all else are shared; the proposals of
    extra queries are not supervised where only the selected ones are. Inference is the host's. Several of them answer
    for an object (:func:`detrex_ext.criterion.hybrid_rule`).

    Keys: ``extra.weight`` (T, .) where rows are learned, and the host's source under ``source``.

    Args:
        source: the host's own source.
        num_extra: T; fewer where a two-stage host's memory has fewer tokens.

    Raises:
        ValueError: a source that wraps another, or that makes no extra queries.
    """

    def __init__(self, source: QuerySource, num_extra: int = 1500) -> None:
        super().__init__(source)
        if num_extra < 1:
            raise ValueError(f"num_extra must be at least 1, got {num_extra}")
        self.num_extra = num_extra
        try:
            own = source.rows()
        except NotImplementedError as error:
            raise ValueError(str(error)) from None
        self.extra = None if own is None else _more_rows(own, num_extra)

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; in training, ``num_extra`` queries stand behind the source's own."""
        if not self.training:
            return self.source(mem, targets)
        rows = None if self.extra is None else self.extra.weight
        return self.source(mem, targets, Extra(self.num_extra, rows, "hybrid"))


@torch.no_grad()
def _more_rows(own: nn.Embedding, num: int) -> nn.Embedding:
    """New rows, distributed as the initial ones: every column is drawn from theirs."""
    made = nn.Embedding(num, own.embedding_dim, device=own.weight.device, dtype=own.weight.dtype)
    made.weight.copy_(own.weight.gather(0, torch.randint_like(made.weight, own.num_embeddings, dtype=torch.int64)))
    return made
