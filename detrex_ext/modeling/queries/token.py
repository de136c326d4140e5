"""Queries that are the memory's own tokens, for models without cross-attention (TSP, arXiv 2011.10881).

Shape legend: B images, N tokens, C channels.
"""

from __future__ import annotations

import torch

from detrex_ext.structures import Given, Memory, Prior, Queries, Slot, SupervisedSet, Targets

from .base import QuerySource
from .two_stage import token_points


class TokenQueries(QuerySource):
    """Every token of the encoder is a query. Nothing is learned here.

    References are the boxes that a sparse encoder says its tokens stand for (``Memory.prior``), or the cells of the
    maps of a dense one; ``extra["stride"]`` (B, N) are pixels per cell of their levels, where they are known.
    """

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`."""
        tokens, prior = mem.tokens_BSC, mem.prior
        if prior is None:
            prior = cells(mem)
            tokens = tokens if mem.pad_BS is None else tokens.masked_fill(mem.pad_BS[..., None], 0.0)
        valid_BN = None if mem.pad_BS is None else ~mem.pad_BS
        extra = {} if prior.strides_BQ is None else {"stride": prior.strides_BQ}
        slots, given = (Slot(tokens.shape[1]),), {"main": Given(prior=prior, valid_BQ=valid_BN)}
        return Queries(tokens, prior.boxes_BQ4, slots, given=given, extra=extra), []


def cells(mem: Memory) -> Prior:
    """The places of the tokens of maps: centers of their cells, and boxes of a cell's size; outside where padding."""
    valid_BS = torch.ones_like(mem.tokens_BSC[..., 0], dtype=torch.bool) if mem.pad_BS is None else ~mem.pad_BS
    points_BS2, strides_BS = token_points(mem, valid_BS)
    size_BS2 = (strides_BS[..., None] / mem.image_hw_B2.flip(1)[:, None]).to(points_BS2.dtype)
    return Prior(torch.cat([points_BS2, size_BS2], -1), points_BS2, strides_BS)
