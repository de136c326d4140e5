"""Convolution with its norm, and the residual blocks made of it, under detectron2's names.

Shape legend: B images, C channels, H, W cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d, misc

from detrex_ext.layers.strided import StridedConv

from .sync_bn import SyncBatchNorm2d

Norm = str | Callable[[int], nn.Module] | None


class _ConstantStatistics:
    """Batch norm that uses its running statistics in training too and never updates them.

    ``ConvNorm`` folds it into its convolution where gradients are wanted, so that no activation is kept for it.
    """

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) scale s and shift t of ``y = s x + t``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class FrozenBatchNorm2d(_ConstantStatistics, misc.FrozenBatchNorm2d):
    """Constant statistics and affine terms, all of them buffers (no ``num_batches_tracked``)."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        self.running_var -= eps  # the identity at the start, as detectron2 has it


class EvalBatchNorm2d(_ConstantStatistics, nn.BatchNorm2d):
    """Constant statistics, trained affine terms (mmdetection's ``norm_eval``)."""


def make_norm(norm: Norm, channels: int) -> nn.Module | None:
    """A norm by name (``FrozenBN``, ``EvalBN``, ``BN``, ``SyncBN``, ``GN`` of 32 groups), by constructor, or none.

    Raises:
        ValueError: an unknown name.
    """
    if norm is None or callable(norm):
        return None if norm is None else norm(channels)
    known = {
        "FrozenBN": FrozenBatchNorm2d,
        "EvalBN": EvalBatchNorm2d,
        "BN": nn.BatchNorm2d,
        "SyncBN": SyncBatchNorm2d,
        "GN": lambda c: nn.GroupNorm(32, c),
    }
    if norm not in known:
        raise ValueError(f"unknown norm '{norm}'; known: {', '.join(known)}, a constructor, or None")
    return known[norm](channels)


class ConvNorm(StridedConv):
    """Convolution without bias, "same" padding, and its norm under the key ``norm``; MSRA initialization."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = "FrozenBN",
        groups: int = 1,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
        self.norm = make_norm(norm, out_channels)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), rounded up."""
        if not isinstance(self.norm, _ConstantStatistics):
            x = self._conv_forward(x, self.weight, None, *more)
            return x if self.norm is None else self.norm(x)
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            scale, shift = self.norm.scale_and_shift()
            return self._conv_forward(x, self.weight * scale[:, None, None, None], shift, *more)
        return self.norm(self._conv_forward(x, self.weight, None, *more))


class DeformConvNorm(ConvNorm):
    """``ConvNorm`` whose taps are moved by offsets, deformable convolution (arXiv 1703.06211, equation 2).

    ``forward(x, offset)``: the offsets are (B, 2 taps, H', W') in pixels, (y, x) of each tap, row by row of the kernel.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, offset: Tensor) -> Tensor:
        dtype = torch.promote_types(weight.dtype, torch.float32)  # torchvision's operator knows no half precision
        x_, offset, weight = x.to(dtype), offset.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            out = deform_conv2d(x_, offset, weight, bias, self.stride, self.padding, self.dilation)
        return out.to(x.dtype)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is the identity where ``shortcut`` is None."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, norm: Norm, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = ConvNorm(in_channels, width, 3, stride, dilation, norm)
        self.conv2 = ConvNorm(width, width, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride), rounded up."""
        y = self.conv2(F.relu_(self.conv1(x)))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, unless ``stride_in_1x1``), 1x1 convolutions around a shortcut.

    Args:
        width: a quarter of the output channels.
        groups, width_per_group: of the 3x3 convolution (ResNeXt); it has ``width * groups * width_per_group / 64``
            channels.
        deform: the 3x3 convolution is deformable, by offsets from a convolution ``conv2_offset`` that starts at 0.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: int,
        norm: Norm,
        shortcut: nn.Module | None,
        groups: int = 1,
        width_per_group: int = 64,
        deform: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        inner = width * width_per_group // 64 * groups
        self.shortcut = shortcut
        first, stride = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(in_channels, inner, 1, first, norm=norm)
        if deform:
            self.conv2_offset = StridedConv(inner, 2 * 3 * 3, 3, stride, dilation, dilation)
            nn.init.zeros_(self.conv2_offset.weight)
            nn.init.zeros_(self.conv2_offset.bias)
        self.deform = deform
        self.conv2 = (DeformConvNorm if deform else ConvNorm)(inner, inner, 3, stride, dilation, norm, groups)
        self.conv3 = ConvNorm(inner, width * self.expansion, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H / stride, W / stride), rounded up."""
        y = F.relu_(self.conv1(x))
        y = self.conv2(y, self.conv2_offset(y)) if self.deform else self.conv2(y)
        y = self.conv3(F.relu_(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)
