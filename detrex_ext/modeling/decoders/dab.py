"""DAB-DETR's decoder (arXiv 2201.12329, sections 4.3 to 4.5).

Shape legend: B images, T tokens, S memory tokens, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrex_ext.layers.attention import key_mask
from detrex_ext.layers.box_ops import LOGIT_EPS, checked_logit_eps, inverse_sigmoid
from detrex_ext.layers.conditional_attention import ConditionalCrossAttention, ConditionalSelfAttention
from detrex_ext.layers.mlp import FFN, MLP
from detrex_ext.layers.position import sine_boxes
from detrex_ext.structures import Memory, Queries

from ..sizes import require_classes
from .deformable import reset_head
from .staged import StagedDecoder, drop_scratch


class DABDecoderLayer(nn.Module):
    """Parameters of one layer: conditional self- and cross-attention, FFN with PReLU, each followed by its norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            [
                ConditionalSelfAttention(dim, num_heads, dropout),
                ConditionalCrossAttention(dim, num_heads, dropout, first),
            ]
        )
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim, dropout, nn.PReLU())])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))


class DABDecoder(StagedDecoder):
    """Queries are boxes that every stage refines; their center and size shape where cross-attention looks.

    References are normalized cxcywh. One head of each kind serves all stages.

    Args:
        num_classes: K.
        dim, num_heads, ffn_dim, dropout: sizes of a layer.
        num_layers: stages.
        parity_padding: look at the padding of the memory, as detrex's decoder does; by default it is masked.
        order, eval_order, chunk: see :class:`StagedDecoder`.
        inverse_sigmoid_eps: how near to 0 and 1 the logit of a reference is taken, see
            :func:`~detrex_ext.layers.box_ops.inverse_sigmoid`.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        num_layers: int = 6,
        parity_padding: bool = False,
        order: Sequence[int] | None = None,
        eval_order: Sequence[int] | None = None,
        chunk: int | None = None,
        inverse_sigmoid_eps: float = LOGIT_EPS,
    ) -> None:
        require_classes(num_classes)
        super().__init__(num_layers, order, eval_order, chunk)
        self.layers = nn.ModuleList(
            DABDecoderLayer(dim, num_heads, ffn_dim, dropout, first=i == 0) for i in range(num_layers)
        )
        self.query_scale = MLP(dim, dim, dim, 2)
        self.ref_point_head = MLP(2 * dim, dim, dim, 2)
        self.ref_anchor_head = MLP(dim, dim, 2, 2)
        self.post_norm_layer = nn.LayerNorm(dim)
        self.dim, self.parity_padding = dim, parity_padding
        self.inverse_sigmoid_eps = checked_logit_eps(inverse_sigmoid_eps)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        self.class_embed = nn.Linear(dim, num_classes)
        self.bbox_embed = MLP(dim, dim, 4, 3)
        reset_head(self.class_embed)
        reset_head(self.bbox_embed)

    def project(self, layer: int, mem: Memory) -> tuple[Tensor, Tensor]:
        """Keys (B, heads, S, 2C / heads) and values (B, heads, S, C / heads)."""
        return self.layers[layer].attentions[1].project(mem.tokens_BSC, mem.pos_BSC)

    def condition(self, layer: int, q: Queries, mem: Memory) -> Queries:
        """Scratch: ``_ref`` (B, T, 4), ``_pos`` (B, T, C), and ``_place`` (B, T, C), the code that looks for places."""
        # an anchor is learned through its code; a refined one is data
        ref = q.ref_BT4.detach() if layer > 0 else q.ref_BT4
        code = sine_boxes(ref, self.dim // 2)
        place = code[..., : self.dim]
        if layer > 0:
            place = place * self.query_scale(q.content_BTC)
        # attention is as wide and high as the box, relative to the size that the content asks for (section 4.4)
        w, h = (self.ref_anchor_head(q.content_BTC).sigmoid() / ref[..., 2:]).split(1, -1)
        y, x = place.chunk(2, -1)
        extra = {"_ref": ref, "_pos": self.ref_point_head(code), "_place": torch.cat([y * h, x * w], -1)}
        return q.replace(extra={**q.extra, **extra})

    def self_attend(self, layer: int, x: Queries) -> Queries:
        """See :meth:`StagedDecoder.self_attend`."""
        return self.attend_then_norm(layer, x, x.extra["_pos"])

    def cross_attend(self, layer: int, x: Queries, kv: tuple[Tensor, Tensor], mem: Memory) -> Queries:
        """See :meth:`StagedDecoder.cross_attend`."""
        block = self.layers[layer]
        mask = None if self.parity_padding else key_mask(mem.pad_BS)
        content = block.attentions[1](x.content_BTC, x.extra["_pos"], x.extra["_place"], kv, mask)
        return x.replace(content_BTC=block.norms[2](block.ffns[0](block.norms[1](content))))

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`."""
        content = self.post_norm_layer(x.content_BTC)
        boxes = self._refine(content, x.ref_BT4)
        # the next reference comes from the content before the norm; this stage's box loss reaches the reference it
        # came with, which later stages take as data
        new = self._refine(x.content_BTC, x.extra["_ref"])
        return self.class_embed(content), boxes, x.replace(ref_BT4=new, extra=drop_scratch(x.extra))

    def _refine(self, content: Tensor, ref: Tensor) -> Tensor:
        return (self.bbox_embed(content).to(ref.dtype) + inverse_sigmoid(ref, self.inverse_sigmoid_eps)).sigmoid()
