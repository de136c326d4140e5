"""Queries that are the memory's own tokens, for models without cross-attention (TSP, arXiv 2011.10881).

Shape legend: B images, N tokens, C channels.
"""

from __future__ import annotations

from detrex_ext.structures import Given, Memory, Queries, Slot, SupervisedSet, Targets

from .base import QuerySource


class TokenQueries(QuerySource):
    """Every token of a sparse encoder is a query. Nothing is learned here.

    References are the boxes that the encoder says its tokens stand for (``Memory.prior``); ``extra["stride"]`` (B, N)
    are pixels per cell of their levels, where it says so.
    """

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`.

        Raises:
            ValueError: a memory whose encoder does not say where its tokens are.
        """
        prior = mem.prior
        if prior is None or prior.boxes_BQ4 is None:
            raise ValueError(
                "TokenQueries needs an encoder that says where its tokens are (FoIEncoder): a memory of feature maps "
                "is for learned or two-stage queries"
            )
        valid_BN = None if mem.pad_BS is None else ~mem.pad_BS
        extra = {} if prior.strides_BQ is None else {"stride": prior.strides_BQ}
        slots, given = (Slot(mem.tokens_BSC.shape[1]),), {"main": Given(prior=prior, valid_BQ=valid_BN)}
        return Queries(mem.tokens_BSC, prior.boxes_BQ4, slots, given=given, extra=extra), []
