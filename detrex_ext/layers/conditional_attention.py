"""Attention whose content and position have projections of their own (Conditional DETR, arXiv 2108.06152, section 3.3).

Parameter names are detrex's. Shape legend: B images (times folded domains), L queries, M keys, H heads, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import attention, join_heads, split_heads


class ConditionalSelfAttention(nn.Module):
    """Self-attention with residual; content and position are projected apart and added.

    Args:
        dim: C.
        num_heads: H.
        dropout: on the attention weights.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query_content_proj = nn.Linear(dim, dim)
        self.query_pos_proj = nn.Linear(dim, dim)
        self.key_content_proj = nn.Linear(dim, dim)
        self.key_pos_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(dropout)
        self.num_heads = num_heads

    def forward(self, x_BLC: Tensor, pos_BLC: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C); ``mask`` as in :func:`~detrex_ext.layers.attention.attention`."""
        q = self.query_content_proj(x_BLC) + self.query_pos_proj(pos_BLC)
        k = self.key_content_proj(x_BLC) + self.key_pos_proj(pos_BLC)
        heads = (split_heads(t, self.num_heads) for t in (q, k, self.value_proj(x_BLC)))
        out = attention(*heads, mask, self.attn_drop.p if self.training else 0.0)
        return x_BLC + self.out_proj(join_heads(out))


class ConditionalCrossAttention(nn.Module):
    """Cross-attention with residual; in each head the position stands beside the content instead of being added.

    Args:
        dim: C; keys and queries of a head are twice as wide as its values.
        num_heads: H.
        dropout: on the attention weights.
        first: the first layer of a decoder, whose contents say little yet: positions are added to them as well.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, first: bool = False) -> None:
        super().__init__()
        self.query_content_proj = nn.Linear(dim, dim)
        self.query_pos_proj = nn.Linear(dim, dim) if first else None
        self.query_pos_sine_proj = nn.Linear(dim, dim)
        self.key_content_proj = nn.Linear(dim, dim)
        self.key_pos_proj = nn.Linear(dim, dim)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(dropout)
        self.num_heads = num_heads

    def project(self, memory_BMC: Tensor, pos_BMC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, M, 2C / H) and values (B, H, M, C / H), once however many queries attend."""
        content, place = self.key_content_proj(memory_BMC), self.key_pos_proj(pos_BMC)
        if self.query_pos_proj is not None:
            content = content + place
        return self._beside(content, place), split_heads(self.value_proj(memory_BMC), self.num_heads)

    def forward(
        self, x_BLC: Tensor, pos_BLC: Tensor, place_BLC: Tensor, kv: tuple[Tensor, Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """(B, L, C) -> (B, L, C).

        Args:
            x_BLC: content.
            pos_BLC: position added to the content in a first layer.
            place_BLC: position code that is compared with that of the memory.
            kv: of :meth:`project`.
            mask: as in :func:`~detrex_ext.layers.attention.attention`.
        """
        content = self.query_content_proj(x_BLC)
        if self.query_pos_proj is not None:
            content = content + self.query_pos_proj(pos_BLC)
        q = self._beside(content, self.query_pos_sine_proj(place_BLC))
        out = attention(q, *kv, mask, self.attn_drop.p if self.training else 0.0)
        return x_BLC + self.out_proj(join_heads(out))

    def _beside(self, content: Tensor, place: Tensor) -> Tensor:
        return torch.cat([split_heads(content, self.num_heads), split_heads(place, self.num_heads)], -1)
