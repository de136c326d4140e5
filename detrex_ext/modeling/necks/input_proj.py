"""One map through a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class InputProj(nn.Module):
    """The last backbone map, projected to the width of the transformer (DETR, arXiv 2005.12872, section 3.2).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the level.
        in_feature: name of the input.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, in_feature: str = "res5") -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(in_channels, out_channels, 1)
        self.in_feature, self.in_features, self.in_channels = in_feature, (in_feature,), (in_channels,)
        self.out_channels, self.num_levels = out_channels, 1

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps by name, (B, C, H, W) -> one level (B, out_channels, H, W)."""
        return [self.input_proj(features[self.in_feature])]
