"""Convolution with a stride, over maps of one column too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StridedConv(nn.Conv2d):
    """``Conv2d`` whose gradients are right in half precision on a CPU; as in ``ConvNorm``, padded by half its kernel.

    Where a map has one column, oneDNN's kernels for AMX (torch 2.4 to 2.15) leave parts of the gradient of the weights
    as the memory was: any number, or none. A second column of zeros, which changes nothing, keeps away from them.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.stride[1] > 1 and self.padding[1] and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            x = F.pad(x, (0, 1)) if x.shape[-1] == 1 else x
        return super()._conv_forward(x, weight, bias)
