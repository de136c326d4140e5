"""A residual backbone of free size, for training from random weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime import ShapeSpec
from .blocks import BasicBlock, ConvNorm, Norm

_STAGES = ("res2", "res3", "res4", "res5")


class BasicResNet(nn.Module):
    """Basic blocks at strides 4, 8, 16, 32 behind a stem of 3x3 convolutions (ResNet-D, He et al., 2019).

    Where a block changes size its shortcut is 2x2 average pooling and a 1x1 convolution, so that no pixel is
    skipped.

    Args:
        stem: channels of the two stride-2 convolutions of the stem.
        widths: channels of each stage, ``res2`` first; at most four.
        blocks: blocks of each stage.
        out_features: names to return.
        norm: ``BN`` (trained from random weights), or as in ``ConvNorm``.
    """

    def __init__(
        self,
        stem: Sequence[int] = (16, 32),
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 1, 1),
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: Norm = "BN",
    ) -> None:
        super().__init__()
        names = _STAGES[: len(widths)]
        if len(widths) > len(_STAGES) or len(blocks) != len(widths) or len(stem) != 2:
            raise ValueError(f"stem {list(stem)}, widths {list(widths)}, blocks {list(blocks)}: want 2, n <= 4 and n")
        if not out_features or set(out_features) - set(names):
            raise ValueError(f"out_features {list(out_features)}: choose some of {', '.join(names)}")
        self.out_features = tuple(out_features)
        self.stem = nn.Module()
        self.stem.conv1 = ConvNorm(3, stem[0], 3, 2, norm=norm)
        self.stem.conv2 = ConvNorm(stem[0], stem[1], 3, 2, norm=norm)
        self._shapes: dict[str, ShapeSpec] = {}
        channels = stem[1]
        for i, (name, width, count) in enumerate(zip(names, widths, blocks, strict=True)):
            stage = [
                _block(channels if k == 0 else width, width, 2 if i and k == 0 else 1, norm) for k in range(count)
            ]
            self.add_module(name, nn.Sequential(*stage))
            self._shapes[name] = ShapeSpec(channels=width, stride=4 * 2**i)
            channels = width

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map that ``forward`` returns."""
        return {name: self._shapes[name] for name in self.out_features}

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Feature maps by name, (B, C, H / stride, W / stride) rounded up, finest first."""
        x = F.relu_(self.stem.conv2(F.relu_(self.stem.conv1(images_B3HW))))
        features = {}
        for name in self._shapes:
            x = getattr(self, name)(x)
            if name in self.out_features:
                features[name] = x
        return features


def _block(channels: int, width: int, stride: int, norm: Norm) -> BasicBlock:
    shortcut = None
    if stride != 1:
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        shortcut = nn.Sequential(pool, ConvNorm(channels, width, 1, norm=norm))
    elif channels != width:
        shortcut = ConvNorm(channels, width, 1, norm=norm)
    return BasicBlock(channels, width, stride, 1, norm, shortcut)
