"""Each backbone map through its own convolution, and further levels below the last."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from detrex_ext.layers.strided import StridedConv

from ..backbones.blocks import Norm, make_norm


class ChannelMapper(nn.Module):
    """1x1 convolution and norm per level; extra levels by 3x3 convolutions of stride 2 (Deformable-DETR, Sec. 4.1).

    The first extra level reads the raw last input, further ones the level before. Keys are detrex's:
    ``convs.{i}.conv``, ``convs.{i}.norm``, ``extra_convs.{i}``; with ``shared_norm`` one ``norm``.

    Args:
        in_channels: channels of each input by name, finest first; the names select the inputs.
        out_channels: channels of every level.
        num_outs: levels in all; None = as many as inputs.
        kernel_size: of the level convolutions.
        norm: as in ``ConvNorm``; ``GN`` has 32 groups.
        shared_norm: one norm for all levels, each with statistics of its own (AdaMixer).
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        out_channels: int = 256,
        num_outs: int | None = None,
        kernel_size: int = 1,
        norm: Norm = "GN",
        shared_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.in_channels = tuple(in_channels), tuple(in_channels.values())
        inputs = self.in_channels
        extra = 0 if num_outs is None else num_outs - len(inputs)
        if extra < 0:
            raise ValueError(f"num_outs {num_outs} is less than the {len(inputs)} inputs {list(self.in_features)}")
        self.out_channels, self.num_levels = out_channels, len(inputs) + extra
        self.norm = make_norm(norm, out_channels) if shared_norm else None
        norm = None if shared_norm else norm
        self.convs = nn.ModuleList(_Level(c, out_channels, kernel_size, 1, norm) for c in inputs)
        below = [inputs[-1]] + [out_channels] * extra
        self.extra_convs = nn.ModuleList(_Level(below[i], out_channels, 3, 2, norm) for i in range(extra))

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps by name, (B, C_i, H_i, W_i) -> levels (B, out_channels, H_i, W_i), finest first."""
        inputs = [features[name] for name in self.in_features]
        levels = [conv(x) for conv, x in zip(self.convs, inputs, strict=True)]
        x = inputs[-1]
        for conv in self.extra_convs:
            x = conv(x)
            levels.append(x)
        return levels if self.norm is None else [self.norm(x) for x in levels]


class _Level(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = StridedConv(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        self.norm = make_norm(norm, out_channels)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)
