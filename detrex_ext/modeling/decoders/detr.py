"""DETR's decoder (arXiv 2005.12872, section 3.2).

Shape legend: B images, T tokens, S memory tokens, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detrex_ext.layers.attention import MultiheadAttention, key_mask
from detrex_ext.layers.mlp import FFN, MLP
from detrex_ext.structures import Memory, Queries

from ..sizes import require_classes
from .staged import StagedDecoder


class DETRDecoderLayer(nn.Module):
    """Parameters of one layer: self-attention, cross-attention, FFN, each followed by its norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(MultiheadAttention(dim, num_heads, dropout) for _ in range(2))
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim, dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))


class DETRDecoder(StagedDecoder):
    """Queries are learned positions (``extra["query_pos"]``); boxes are absolute, so references say nothing.

    One head of each kind serves all stages. Class logits are a softmax over K + 1, the last of them "no object".

    Args:
        num_classes: K.
        dim, num_heads, ffn_dim, dropout: sizes of a layer.
        num_layers: stages.
        order, eval_order, chunk: see :class:`StagedDecoder`.
    """

    softmax = True

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        num_layers: int = 6,
        order: Sequence[int] | None = None,
        eval_order: Sequence[int] | None = None,
        chunk: int | None = None,
    ) -> None:
        require_classes(num_classes)
        super().__init__(num_layers, order, eval_order, chunk)
        self.dim = dim
        self.layers = nn.ModuleList(DETRDecoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers))
        self.post_norm_layer = nn.LayerNorm(dim)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4, 3)

    def project(self, layer: int, mem: Memory) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, heads, S, C / heads)."""
        return self.layers[layer].attentions[1].project(mem.tokens_BSC, mem.pos_BSC)

    def condition(self, layer: int, q: Queries, mem: Memory) -> Queries:
        """Nothing: positions are ``extra["query_pos"]`` (B, T, C)."""
        return q

    def self_attend(self, layer: int, x: Queries) -> Queries:
        """See :meth:`StagedDecoder.self_attend`."""
        return self.attend_then_norm(layer, x, x.extra["query_pos"])

    def cross_attend(self, layer: int, x: Queries, kv: tuple[Tensor, Tensor], mem: Memory) -> Queries:
        """See :meth:`StagedDecoder.cross_attend`."""
        block = self.layers[layer]
        content = block.attentions[1].cross(x.content_BTC, x.extra["query_pos"], kv, key_mask(mem.pad_BS))
        return x.replace(content_BTC=block.norms[2](block.ffns[0](block.norms[1](content))))

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`; logits are (B, T, K + 1), references stay."""
        content = self.post_norm_layer(x.content_BTC)
        return self.class_embed(content), self.bbox_embed(content).to(x.ref_BT4.dtype).sigmoid(), x
