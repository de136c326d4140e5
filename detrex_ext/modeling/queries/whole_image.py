"""Queries that start as the whole image (AdaMixer, arXiv 2203.16507, section 3.1).

Shape legend: B images, Q queries, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from detrex_ext.layers.xyzr import boxes_to_xyzr
from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets
from detrex_ext.structures.placing import placed

from .base import Extra, QuerySource, all_rows, slots_of


class WholeImageQueries(QuerySource):
    """Learned content, normed without parameters; every reference is the whole image, and is not learned.

    References are (x, y, z, r) of :mod:`detrex_ext.layers.xyzr`, in pixels. Keys: ``content.weight`` (Q, C).

    Args:
        num_queries: Q.
        dim: C.
    """

    def __init__(self, num_queries: int = 100, dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.content = nn.Embedding(num_queries, dim)

    def rows(self) -> nn.Embedding:
        """See :meth:`QuerySource.rows`."""
        return self.content

    def forward(
        self, mem: Memory, targets: Targets | None = None, extra: Extra | None = None
    ) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; ``extra`` asks for queries behind the source's own."""
        rows = all_rows(self.content, extra)
        B, (Q, C) = mem.tokens_BSC.shape[0], rows.shape
        whole = placed([0.5, 0.5, 1.0, 1.0], mem.valid_BL2).expand(B, Q, 4)
        ref, carried = self.place(whole, mem)
        content = F.layer_norm(rows, (C,)).expand(B, -1, -1)
        slots = slots_of(len(self.content.weight), extra, Q)
        return Queries(content, ref, slots, extra=carried), []

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`QuerySource.place`."""
        wh = mem.image_hw_B2.flip(1).to(boxes_BT4.dtype)
        return boxes_to_xyzr(boxes_BT4 * wh.repeat(1, 2)[:, None]), {}
