"""Pyramid neck with a top-down and a bottom-up path."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.blocks import ConvNorm, Norm


class PAFPN(nn.Module):
    """Top-down (Lin et al., 2017), then bottom-up (PANet, Liu et al., 2018) exchange between levels.

    1x1 convolutions to one width; going down, the coarser level is enlarged to the finer one's size, added and
    smoothed by a 3x3 convolution; going up, the finer level's 3x3 stride-2 convolution is added and smoothed.

    Args:
        in_channels: channels of each input by name, finest first, each half the size of the one before, rounded up;
            the names select the inputs.
        out_channels: channels of every level.
        norm: as in ``ConvNorm``.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 128, norm: Norm = "BN") -> None:
        super().__init__()
        self.in_features, self.in_channels = tuple(in_channels), tuple(in_channels.values())
        self.out_channels, self.num_levels = out_channels, len(in_channels)
        steps = len(in_channels) - 1

        def smooth(stride: int = 1) -> ConvNorm:
            return ConvNorm(out_channels, out_channels, 3, stride, norm=norm)

        self.lateral = nn.ModuleList(ConvNorm(c, out_channels, 1, norm=norm) for c in in_channels.values())
        self.top_down = nn.ModuleList(smooth() for _ in range(steps))
        self.down_sample = nn.ModuleList(smooth(2) for _ in range(steps))
        self.bottom_up = nn.ModuleList(smooth() for _ in range(steps))

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps by name, (B, C_i, H_i, W_i) -> levels (B, out_channels, H_i, W_i), finest first."""
        levels = [conv(features[name]) for conv, name in zip(self.lateral, self.in_features, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            coarse = F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
            levels[i] = F.relu_(self.top_down[i](levels[i] + coarse))
        for i in range(len(levels) - 1):
            fine = F.relu_(self.down_sample[i](levels[i]))
            levels[i + 1] = F.relu_(self.bottom_up[i](levels[i + 1] + fine))
        return levels
