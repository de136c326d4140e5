"""From feature maps to memory tokens; on its own it is the choice of no encoder.

Shape legend: B images, L levels, S tokens of all levels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrex_ext.structures import Features, Memory, SupervisedSet, Targets


def flatten_levels(per_level: list[Tensor]) -> Tensor:
    """(B, H, W, ...) maps of every level -> (B, S, ...), finest first, row-major."""
    return torch.cat([x.flatten(1, 2) for x in per_level], 1)


def valid_fractions(features: Features, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, L, 2) valid fraction (x, y) of each level, from the first row and column of its padding mask."""
    parts = []
    for pad in features.pads:
        x = (~pad[:, 0, :]).to(dtype).mean(1)
        y = (~pad[:, :, 0]).to(dtype).mean(1)
        parts.append(torch.stack([x, y], -1))
    return torch.stack(parts, 1)


def to_memory(features: Features, tokens_BSC: Tensor | None = None, pos_BSC: Tensor | None = None) -> Memory:
    """The memory of some features, with given tokens or the maps' own."""
    if tokens_BSC is None:
        tokens_BSC = flatten_levels([m.permute(0, 2, 3, 1) for m in features.maps])
    return Memory(
        tokens_BSC,
        pos_BSC,
        flatten_levels(features.pads),
        tuple((m.shape[2], m.shape[3]) for m in features.maps),
        features.strides,
        valid_fractions(features, torch.float64 if tokens_BSC.dtype == torch.float64 else torch.float32),
        features.image_hw_B2,
    )


class FlattenEncoder(nn.Module):
    """No encoder: the neck's maps are the memory."""

    def forward(self, features: Features, targets: Targets | None = None) -> tuple[Memory, list[SupervisedSet]]:
        """Memory of the maps as they are, (B, S, C), and no set to supervise."""
        return to_memory(features), []
