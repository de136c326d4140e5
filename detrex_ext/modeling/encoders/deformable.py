"""Deformable-DETR's encoder (arXiv 2010.04159, section 4.1).

Shape legend: B images, L levels, S tokens of all levels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from detrex_ext.layers.mlp import FFN
from detrex_ext.layers.ms_deform_attn import MSDeformAttn, level_cells
from detrex_ext.layers.position import sine_map
from detrex_ext.structures import Features, Memory, SupervisedSet, Targets
from detrex_ext.structures.placing import placed

from .flatten import flatten_levels, to_memory


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over the memory and an FFN, each followed by its norm."""

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MSDeformAttn(dim, num_heads, num_levels, num_points, dropout)])
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim, dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor, pos: Tensor, center: Tensor, unit: Tensor, mem: Memory) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        attention = self.attentions[0]
        x = self.norms[0](attention(x, pos, center, unit, attention.project(x, mem.pad_BS), mem.shapes))
        return self.norms[1](self.ffns[0](x))


class DeformableEncoder(nn.Module):
    """``num_layers`` of deformable self-attention over all levels.

    Args:
        dim, num_heads, num_levels, num_points, ffn_dim, dropout: sizes of a layer.
        num_layers: layers; memory is 1/8 of the image's pixels, so this is where most of the time goes.
        temperature, offset: of the sine position code.
        checkpoint: recompute the layers in the backward pass: less memory, more time.
    """

    def __init__(
        self,
        dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
        num_layers: int = 6,
        temperature: float = 10000.0,
        offset: float = -0.5,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, num_heads, num_levels, num_points, ffn_dim, dropout)
            for _ in range(num_layers)
        )
        self.level_embeds = nn.Parameter(torch.empty(num_levels, dim))
        self.dim, self.num_levels, self.temperature, self.offset = dim, num_levels, temperature, offset
        self.checkpoint = checkpoint
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        for layer in self.layers:
            layer.attentions[0].reset_parameters()
        nn.init.normal_(self.level_embeds)

    def forward(self, features: Features, targets: Targets | None = None) -> tuple[Memory, list[SupervisedSet]]:
        """Encoded memory (B, S, C), and no set to supervise."""
        mem = to_memory(features)
        x = mem.tokens_BSC
        codes = [sine_map(p, self.dim // 2, self.temperature, self.offset, mem.valid_BL2.dtype) for p in features.pads]
        pos = flatten_levels([c + e for c, e in zip(codes, self.level_embeds, strict=True)])
        center = cell_centers(mem)[:, :, None] * mem.valid_BL2[:, None]
        unit = level_cells(mem.shapes, center)
        for layer in self.layers:
            inputs = (x, pos, center, unit, mem)
            x = recompute(layer, *inputs, use_reentrant=False) if self.checkpoint and self.training else layer(*inputs)
        mem.tokens_BSC, mem.pos_BSC = x, pos
        return mem, []


def cell_centers(mem: Memory) -> Tensor:
    """(B, S, 2) center (x, y) of every token's cell as a fraction of the valid image."""
    like = mem.valid_BL2
    parts = []
    for level, (h, w) in enumerate(mem.shapes):
        y = torch.arange(h, device=like.device, dtype=like.dtype) + 0.5
        x = torch.arange(w, device=like.device, dtype=like.dtype) + 0.5
        grid = torch.stack([x[None].expand(h, w), y[:, None].expand(h, w)], -1).flatten(0, 1)
        # rounded back to whole cells, so that the center of the first of 50 is 0.01 exactly and falls on detrex's side
        size = (placed([w, h], like) * like[:, level, None]).round()
        parts.append(grid / size)
    return torch.cat(parts, 1)
