"""The protocol of query sources."""

from __future__ import annotations

from torch import Tensor, nn

from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets


class QuerySource(nn.Module):
    """Makes the initial queries. Sources own parameters (strategies do not) and may return sets to supervise."""

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """Initial queries of the memory; ``targets`` in training only."""
        raise NotImplementedError

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """A box as this host's query: its reference (B, T, 4) and ``extra``.

        Args:
            boxes_BT4: normalised cxcywh.

        Raises:
            NotImplementedError: where a box cannot be a query of this source; denoising then refuses it.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot place a box as a query: denoising needs that")
