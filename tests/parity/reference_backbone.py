"""ResNet-50 as plain functions over detrex's backbone keys (He et al., https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def conv_norm(w: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution without bias, then a frozen batch norm."""
    kernel = w[f"{name}.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    scale = w[f"{name}.norm.weight"] / (w[f"{name}.norm.running_var"] + 1e-5).sqrt()
    shift = w[f"{name}.norm.bias"] - w[f"{name}.norm.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def resnet50(w: dict[str, Tensor], images_B3HW: Tensor) -> dict[str, Tensor]:
    """Maps ``res3``, ``res4``, ``res5``; the stride lies in the 3x3 convolution."""
    x = F.max_pool2d(conv_norm(w, "backbone.stem.conv1", images_B3HW, 2).relu(), 3, 2, 1)
    maps = {}
    for stage, count in BLOCKS.items():
        for block in range(count):
            name = f"backbone.{stage}.{block}"
            stride = 2 if block == 0 and stage != "res2" else 1
            y = conv_norm(w, f"{name}.conv1", x).relu()
            y = conv_norm(w, f"{name}.conv3", conv_norm(w, f"{name}.conv2", y, stride).relu())
            x = (y + (conv_norm(w, f"{name}.shortcut", x, stride) if block == 0 else x)).relu()
        maps[stage] = x
    return {k: v for k, v in maps.items() if k != "res2"}


def prepare(images: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normalized images padded right and below to a common size (B, 3, H, W), and their padding (B, H, W)."""
    H, W = (max(x.shape[axis] for x in images) for axis in (1, 2))
    mean, std = (torch.tensor(v).to(dtype)[:, None, None] for v in (MEAN, STD))  # constants are kept in fp32
    batch = torch.zeros(len(images), 3, H, W, dtype=dtype)
    pad = torch.ones(len(images), H, W, dtype=dtype)
    for i, image in enumerate(images):
        h, w = image.shape[1:]
        batch[i, :, :h, :w] = (image.to(dtype) - mean) / std
        pad[i, :h, :w] = 0
    return batch, pad
