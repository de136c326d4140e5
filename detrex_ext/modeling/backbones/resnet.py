"""ResNet with torchvision's numerics behind detectron2's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ...runtime import ShapeSpec
from .blocks import BasicBlock, Bottleneck, ConvNorm, Norm

_DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
_STAGES = ("res2", "res3", "res4", "res5")


class ResNet(nn.Module):
    """ResNet (He et al., 2016) with the stride in the 3x3 convolution, as torchvision's.

    In evaluation its features equal those of torchvision's model of the same weights, bit for bit. Keys are
    detectron2's: ``stem.conv1.weight``, ``stem.conv1.norm.*``, ``res2.0.shortcut.weight``, ``res2.0.conv1.norm.*``,
    ``res3.0.conv2_offset.*``. ResNeXt-101 32x4d is ``depth=101, groups=32, width_per_group=4``.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_features: names to return; stages after the last of them are not built.
        freeze_at: parts that are not trained: 0 none, 1 the stem, 2 the stem and ``res2``, up to 5. Trained batch
            norm is replaced by constant statistics there.
        norm: ``FrozenBN`` (for pretrained weights), ``EvalBN`` (constant statistics, trained affine terms), ``BN``, or
            a constructor.
        dilate_res5: keep ``res5`` at stride 16 with dilation 2 ("DC5").
        checkpoint: recompute the blocks in the backward pass: less memory, more time.
        groups, width_per_group: of the 3x3 convolutions (ResNeXt, Xie et al., 2017), for depths of 50 and more.
        deform_stages: stages whose 3x3 convolutions are deformable (Dai et al., 2017), for depths of 50 and more.
        stride_in_1x1: the stride is in the first 1x1 convolution, as in the original (detectron2's weights ``MSRA``).
    """

    def __init__(
        self,
        depth: int = 50,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        freeze_at: int = 1,
        norm: Norm = "FrozenBN",
        dilate_res5: bool = False,
        checkpoint: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        deform_stages: Sequence[str] = (),
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if depth not in _DEPTHS:
            raise ValueError(f"depth {depth} is not a ResNet; known: {', '.join(map(str, _DEPTHS))}")
        for what, names in (("out_features", out_features), ("deform_stages", deform_stages)):
            if set(names) - set(_STAGES) or not out_features:
                raise ValueError(f"{what} {list(names)}: choose some of {', '.join(_STAGES)}")
        if checkpoint and norm == "BN":
            raise ValueError("checkpoint=True would update the statistics of trained batch norm twice; use FrozenBN")
        block, counts = _DEPTHS[depth]
        options = {"groups": groups, "width_per_group": width_per_group, "stride_in_1x1": stride_in_1x1}
        if block is BasicBlock:
            if (groups, width_per_group, len(deform_stages), stride_in_1x1) != (1, 64, 0, False):
                raise ValueError(
                    f"groups, deform_stages and stride_in_1x1 need a ResNet of depth 50 or more, not {depth}"
                )
            options = {}
        self.out_features = tuple(out_features)
        self.checkpoint = checkpoint
        self.stem = nn.Module()
        self.stem.conv1 = ConvNorm(3, 64, 7, 2, norm=_frozen(norm, 1, freeze_at))
        self._shapes: dict[str, ShapeSpec] = {}
        channels, stride = 64, 4
        last = max(_STAGES.index(name) for name in out_features)
        for i, name in enumerate(_STAGES[: last + 1]):
            dilate = dilate_res5 and name == "res5"
            step = 1 if i == 0 or dilate else 2
            more = {**options, "deform": True} if name in deform_stages else options
            part_norm = _frozen(norm, i + 2, freeze_at)
            stage = _stage(block, channels, 64 * 2**i, counts[i], step, 1 + dilate, part_norm, more)
            self.add_module(name, stage)
            channels, stride = 64 * 2**i * block.expansion, stride * step
            self._shapes[name] = ShapeSpec(channels=channels, stride=stride)
        for part in [self.stem, *(getattr(self, name) for name in self._shapes)][:freeze_at]:
            part.requires_grad_(False)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map that ``forward`` returns."""
        return {name: self._shapes[name] for name in self.out_features}

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Feature maps by name, (B, C, H / stride, W / stride) rounded up, finest first."""
        x = F.max_pool2d(F.relu_(self.stem.conv1(images_B3HW)), 3, 2, 1)
        features = {}
        for name in self._shapes:
            for block in getattr(self, name):
                trained = self.training and block.conv1.weight.requires_grad
                x = recompute(block, x, use_reentrant=False) if self.checkpoint and trained else block(x)
            if name in self.out_features:
                features[name] = x
        return features


def _frozen(norm: Norm, part: int, freeze_at: int) -> Norm:
    return "FrozenBN" if norm == "BN" and part <= freeze_at else norm


def _stage(
    block: type[BasicBlock | Bottleneck],
    channels: int,
    width: int,
    count: int,
    stride: int,
    dilation: int,
    norm: Norm,
    options: Mapping[str, Any],
) -> nn.Sequential:
    """``count`` blocks; the first has the stride and, where shapes change, a projection as shortcut.

    As in torchvision, a dilated stage starts with an undilated block.
    """
    out = width * block.expansion
    project = stride != 1 or channels != out
    shortcut = ConvNorm(channels, out, 1, stride, norm=norm) if project else None
    blocks = [block(channels, width, stride, 1, norm, shortcut, **options)]
    blocks += [block(out, width, 1, dilation, norm, None, **options) for _ in range(count - 1)]
    return nn.Sequential(*blocks)
