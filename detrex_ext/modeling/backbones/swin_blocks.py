"""Blocks of the Swin Transformer: attention within shifted windows, and what joins cells.

Shape legend: B images, H, W cells of a map, C channels, G windows of a map, N cells of a window, W windows of all
images, A heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute
from torchvision.ops import stochastic_depth

from detrex_ext.layers.attention import attention


class PatchEmbed(nn.Module):
    """A cell for every 4x4 pixels: (B, 3, H, W) -> (B, H / 4, W / 4, C), rounded up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, C), rounded up."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one size; ``downsample`` halves it afterwards, where there is a next stage."""

    def __init__(self, dim: int, num_heads: int, window: int, rates: Sequence[float], merge: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, window, self.shift * (k % 2), rate) for k, rate in enumerate(rates)
        )
        self.downsample = PatchMerging(dim) if merge else None

    def forward(self, x_BHWC: Tensor, save_memory: bool) -> Tensor:
        """The map, before ``downsample``."""
        apart_GNN = self._apart(x_BHWC)
        for block in self.blocks:
            saved = save_memory and block.attn.qkv.weight.requires_grad
            args = (x_BHWC, apart_GNN if block.shift else None)
            x_BHWC = recompute(block, *args, use_reentrant=False) if saved else block(*args)
        return x_BHWC

    def _apart(self, x_BHWC: Tensor) -> Tensor:
        """-100 between cells of a shifted window that are no neighbors in the image, else 0."""

        def region(cells: int) -> Tensor:
            cells += -cells % self.window
            at = torch.arange(cells, device=x_BHWC.device)
            return (at >= cells - self.window).long() + (at >= cells - self.shift)

        height, width = (region(n) for n in x_BHWC.shape[1:3])
        ids_GN = _to_windows((3 * height[:, None] + width)[None, ..., None], self.window)[..., 0]
        different = ids_GN[:, None] != ids_GN[:, :, None]
        return torch.zeros_like(different, dtype=x_BHWC.dtype).masked_fill(different, -100.0)


class Block(nn.Module):
    """Pre-norm attention within windows and an MLP, each skipped at a ``rate`` in training."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, rate: float) -> None:
        super().__init__()
        self.window, self.shift, self.rate = window, shift, rate
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x_BHWC: Tensor, apart_GNN: Tensor | None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); ``apart_GNN`` is added to the attention of shifted windows."""
        x_BHWC = x_BHWC + self._drop(self._attend(self.norm1(x_BHWC), apart_GNN))
        return x_BHWC + self._drop(self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x_BHWC)))))

    def _drop(self, x: Tensor) -> Tensor:
        return stochastic_depth(x, self.rate, "row", self.training)

    def _attend(self, x: Tensor, apart_GNN: Tensor | None) -> Tensor:
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, -W % self.window, 0, -H % self.window))
        _, padded_h, padded_w, _ = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self.attn(_to_windows(x, self.window), apart_GNN)
        x = x.unflatten(0, (-1, padded_h // self.window, padded_w // self.window)).unflatten(3, (self.window, -1))
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :H, :W]


class WindowAttention(nn.Module):
    """Multi-head attention with a learned bias for each pair of places in a window."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side * side, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        at = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        between_NN2 = at[:, None] - at + window - 1
        self.register_buffer("relative_position_index", side * between_NN2[..., 0] + between_NN2[..., 1])
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_WNC: Tensor, apart_GNN: Tensor | None) -> Tensor:
        """Every window within itself."""
        q, k, v = self.qkv(x_WNC).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if apart_GNN is not None:
            mask_GANN = mask + apart_GNN[:, None]
            mask = mask_GANN.expand(len(x_WNC) // len(apart_GNN), -1, -1, -1, -1).flatten(0, 1)
        return self.proj(attention(q, k, v, mask.to(q.dtype)).transpose(1, 2).flatten(2))


class PatchMerging(nn.Module):
    """2x2 cells become one of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, 2 C), rounded up."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


def _to_windows(x_BHWC: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B G, N, C)."""
    x = x_BHWC.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)
