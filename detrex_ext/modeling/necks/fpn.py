"""Feature pyramid, with further levels below the last output."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from detrex_ext.layers.strided import StridedConv

from ..backbones.blocks import Norm, make_norm


class FPN(FeaturePyramidNetwork):
    """torchvision's feature pyramid (Lin et al., 2017), and levels of half the size each, made from the last output.

    The first extra level reads the output of the coarsest input (P6 from P5, not from C5), each further one the ReLU of
    the one before; outputs have no activation. Keys: ``inner_blocks.{i}.0``, ``layer_blocks.{i}.0``,
    ``extra_blocks.levels.{i}.conv`` and ``.norm``.

    Args:
        in_channels: channels of each input by name, finest first; the names select the inputs.
        channels: of every level. It is the width of the convolutional part, not that of a transformer behind it.
        num_outs: levels in all; None = as many as inputs.
        norm: of the extra levels, as in ``ConvNorm``. Statistics of ``SyncBN`` are of few cells where a process has few
            images; ``GN`` and ``FrozenBN`` have no such, but weights do not transfer between norms.

    Raises:
        ValueError: fewer levels than inputs.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int = 256,
        num_outs: int | None = None,
        norm: Norm = "SyncBN",
    ) -> None:
        extra = 0 if num_outs is None else num_outs - len(in_channels)
        if extra < 0:
            raise ValueError(f"num_outs {num_outs} is less than the {len(in_channels)} inputs {list(in_channels)}")
        super().__init__(list(in_channels.values()), channels, _Extra(channels, extra, norm) if extra else None)
        self.in_features, self.in_channels = tuple(in_channels), tuple(in_channels.values())
        self.channels, self.num_levels = channels, len(in_channels) + extra

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps by name, (B, C_i, H_i, W_i) -> levels (B, channels, H_i, W_i), finest first."""
        return list(super().forward({name: features[name] for name in self.in_features}).values())


class _Extra(ExtraFPNBlock):
    def __init__(self, channels: int, count: int, norm: Norm) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Level(channels, norm) for _ in range(count))

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        for i, level in enumerate(self.levels):
            results.append(level(F.relu(results[-1]) if i else results[-1]))
            names.append(f"extra{i}")
        return results, names


class _Level(nn.Module):
    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = StridedConv(channels, channels, 3, 2, 1)
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)
