"""Swin Transformer as a pyramid backbone, with the numerics and names of the authors' detection code.

Shape legend: B images, H, W cells of a map, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...runtime import ShapeSpec
from .swin_blocks import PatchEmbed, Stage

_STAGES = ("res2", "res3", "res4", "res5")


class SwinTransformer(nn.Module):
    """Attention within windows, which are shifted in every second block (arXiv 2103.14030), and a norm per output.

    Takes images of any size: maps are padded with zeros to whole windows before the shift. The defaults are Swin-T.
    Keys are those of detectron2's and mmdetection 2's ancestor: ``layers.0.blocks.1.attn.qkv``,
    ``layers.0.downsample.reduction``, ``norm3``.

    Args:
        dim: channels of ``res2``; each stage doubles them.
        depths, num_heads: blocks and attention heads of each stage.
        window_size: cells of a window's side.
        out_features: names to return; stages after the last of them are not built.
        drop_path: probability to skip the last block's branches for an image, in training; rises linearly from 0.
        freeze_at: parts that are not trained: 0 none, 1 the patch embedding, 2 ``res2`` too, up to 5.
        checkpoint: recompute the blocks in the backward pass: less memory, more time.
    """

    def __init__(
        self,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        drop_path: float = 0.2,
        freeze_at: int = 0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if not out_features or set(out_features) - set(_STAGES):
            raise ValueError(f"out_features {list(out_features)}: choose some of {', '.join(_STAGES)}")
        if len(depths) != len(_STAGES) or len(num_heads) != len(_STAGES):
            raise ValueError(f"depths {list(depths)} and num_heads {list(num_heads)}: one number for each of 4 stages")
        self.out_features = tuple(out_features)
        self.checkpoint = checkpoint
        last = max(_STAGES.index(name) for name in out_features)
        step = drop_path / max(sum(depths) - 1, 1)
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList()
        for i in range(last + 1):
            rates = [step * k for k in range(sum(depths[:i]), sum(depths[: i + 1]))]
            if i + 2 <= freeze_at:
                rates = [0.0] * len(rates)
            self.layers.append(Stage(dim * 2**i, num_heads[i], window_size, rates, merge=i < last))
            if _STAGES[i] in out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(dim * 2**i))
        self._shapes = {name: ShapeSpec(channels=dim * 2**i, stride=4 * 2**i) for i, name in enumerate(_STAGES)}
        self.apply(_start)
        for part in [self.patch_embed, *self.layers][:freeze_at]:
            part.requires_grad_(False)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map that ``forward`` returns."""
        return {name: shape for name, shape in self._shapes.items() if name in self.out_features}

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Feature maps by name, (B, C, H / stride, W / stride) rounded up, finest first."""
        x_BHWC = self.patch_embed(images_B3HW)
        features = {}
        for i, stage in enumerate(self.layers):
            x_BHWC = stage(x_BHWC, self.checkpoint and self.training)
            if _STAGES[i] in self.out_features:
                features[_STAGES[i]] = getattr(self, f"norm{i}")(x_BHWC).permute(0, 3, 1, 2).contiguous()
            if stage.downsample is not None:
                x_BHWC = stage.downsample(x_BHWC)
        return features


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
