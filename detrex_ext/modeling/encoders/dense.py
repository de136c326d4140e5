"""The encoder of DETR (arXiv 2005.12872, section 3.2) and of DAB-DETR (arXiv 2201.12329, section 4.2).

Shape legend: B images, S tokens, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from detrex_ext.layers.attention import MultiheadAttention, key_mask
from detrex_ext.layers.mlp import FFN, MLP
from detrex_ext.layers.position import sine_map
from detrex_ext.structures import Features, Memory, SupervisedSet, Targets

from .flatten import to_memory


class DenseEncoderLayer(nn.Module):
    """Self-attention over all tokens and an FFN, each followed by its norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, prelu: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MultiheadAttention(dim, num_heads, dropout)])
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim, dropout, nn.PReLU() if prelu else None)])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        x = self.norms[0](self.attentions[0](x, pos, mask))
        return self.norms[1](self.ffns[0](x))


class DenseEncoder(nn.Module):
    """``num_layers`` of self-attention over the cells of one map.

    Args:
        dim, num_heads, ffn_dim, dropout: sizes of a layer.
        num_layers: layers.
        temperature: of the sine position code.
        scale_position: before each layer an MLP of the content scales the position code (DAB-DETR).
        prelu: FFNs with a learned negative slope (DAB-DETR) instead of ReLU.
        checkpoint: recompute the layers in the backward pass: less memory, more time.
    """

    def __init__(
        self,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        num_layers: int = 6,
        temperature: float = 10000.0,
        scale_position: bool = False,
        prelu: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseEncoderLayer(dim, num_heads, ffn_dim, dropout, prelu) for _ in range(num_layers)
        )
        self.query_scale = MLP(dim, dim, dim, 2) if scale_position else None
        self.dim, self.temperature, self.checkpoint = dim, temperature, checkpoint
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, features: Features, targets: Targets | None = None) -> tuple[Memory, list[SupervisedSet]]:
        """Encoded memory (B, S, C), and no set to supervise.

        Raises:
            ValueError: more than one map: nothing here tells tokens of different levels apart.
        """
        if len(features.maps) != 1:
            raise ValueError(
                f"DenseEncoder reads one map, got {len(features.maps)}: use a neck of one level (InputProj) or the "
                f"encoder of a multi-level model (DeformableEncoder)"
            )
        mem = to_memory(features)
        # as detrex in the padding too: masked for all but a decoder that is told to look there
        code = sine_map(
            features.pads[0], self.dim // 2, self.temperature, dtype=mem.valid_BL2.dtype, parity_padding=True
        )
        x, mem.pos_BSC, mask = mem.tokens_BSC, code.flatten(1, 2), key_mask(mem.pad_BS)
        for layer in self.layers:
            pos = mem.pos_BSC if self.query_scale is None else mem.pos_BSC * self.query_scale(x)
            again = self.checkpoint and self.training
            x = recompute(layer, x, pos, mask, use_reentrant=False) if again else layer(x, pos, mask)
        mem.tokens_BSC = x
        return mem, []
