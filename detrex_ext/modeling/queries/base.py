"""The protocol of query sources."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrex_ext.structures import Memory, Queries, Slot, SupervisedSet, Targets


@dataclass(frozen=True)
class Extra:
    """Queries beyond a source's own, which have a group and a self-attention domain to themselves.

    Attributes:
        num: how many.
        rows: (num, .), what is learned of each, as a row of the source's ``rows``; None where nothing is.
        group: of their slot.
    """

    num: int
    rows: Tensor | None
    group: str


class QuerySource(nn.Module):
    """Makes the initial queries. Sources own parameters (strategies do not) and may return sets to supervise.

    A host's own source also takes ``extra: Extra | None`` in ``forward``, and then tells its ``rows``.

    Attributes:
        positioned: whether its queries carry a position of their own, ``extra["query_pos"]`` (B, T, C).
    """

    positioned = False

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """Initial queries of the memory.

        Args:
            mem: tokens (B, S, C).
            targets: in training only.

        Returns:
            Queries of Q tokens, content (B, Q, C) and references (B, Q, 4), and what to supervise besides, in training.
        """
        raise NotImplementedError

    def rows(self) -> nn.Embedding | None:
        """What is learned of each query, a row each; None where queries are made of the memory alone.

        Raises:
            NotImplementedError: where a source makes no queries but its own; hybrid queries then refuse it.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no extra queries: hybrid queries need that")

    @property
    def places(self) -> bool:
        """Whether a box can be a query of this source."""
        return type(self).place is not QuerySource.place

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """A box as this host's query.

        Args:
            boxes_BT4: normalized cxcywh.
            mem: tokens (B, S, C), and sizes of the images.

        Returns:
            Its reference (B, T, 4), and ``extra``, tensors (B, T, ...).

        Raises:
            NotImplementedError: where a box cannot be a query of this source; denoising then refuses it.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot place a box as a query: denoising needs that")


class WrappedSource(QuerySource):
    """A source around a host's own, under ``source``: the same at inference, more in training.

    Raises:
        ValueError: the source is around another itself.
    """

    def __init__(self, source: QuerySource) -> None:
        super().__init__()
        if isinstance(getattr(source, "source", None), QuerySource):
            raise ValueError(
                f"{type(self).__name__} goes around a host's own queries, not around {type(source).__name__}: "
                "put denoising outside, and choose one of hybrid and group queries"
            )
        self.source = source

    @property
    def places(self) -> bool:
        """See :attr:`QuerySource.places`."""
        return self.source.places

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`QuerySource.place`."""
        return self.source.place(boxes_BT4, mem)


def host_source(source: QuerySource) -> QuerySource:
    """The source of a host's own queries, without those that are around it (denoising, hybrid, group)."""
    while isinstance(getattr(source, "source", None), QuerySource):
        source = source.source
    return source


def all_rows(own: nn.Embedding, extra: Extra | None) -> Tensor:
    """(Q, .) rows of a source's own queries and, behind them, of the extra ones."""
    return own.weight if extra is None else torch.cat([own.weight, extra.rows])


def slots_of(num: int, extra: Extra | None, total: int, point: bool = False) -> tuple[Slot, ...]:
    """The slot of a source's own queries and, where ``extra`` is asked for, that of the other ``total - num``."""
    own = Slot(num, point=point)
    if extra is None:
        return (own,)
    # no tokens attend to nothing: an empty set is in no domain
    return own, Slot(total - num, extra.group, domain=1 if total > num else None, point=point)
