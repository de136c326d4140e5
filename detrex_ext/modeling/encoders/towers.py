"""Dense towers of convolutions, shared over levels.

Shape legend: B images, C channels, H, W cells of a level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class ModulatedConv(nn.Module):
    """A 3x3 convolution whose taps are moved and weighted (arXiv 1811.11168, equation 1), by a convolution ``offset``.

    Args:
        channels: C, in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 3 * 9, 3, 1, 1)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), which stays."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)  # torchvision's operator knows no half precision
        moves, mask = self.offset(x).to(dtype).split((18, 9), 1)
        with torch.autocast(x.device.type, enabled=False):
            args = (x.to(dtype), moves, self.weight.to(dtype), self.bias.to(dtype))
            return deform_conv2d(*args, padding=1, mask=mask.sigmoid()).to(x.dtype)


def tower(channels: int, num_convs: int, deformable: bool = False, groups: int = 32) -> nn.Sequential:
    """3x3 convolutions of C channels, each with group norm and ReLU (FCOS, arXiv 1904.01355).

    Args:
        channels: C.
        num_convs: how many.
        deformable: the last of them is a :class:`ModulatedConv`.
        groups: of the norms.
    """
    parts: list[nn.Module] = []
    for i in range(num_convs):
        conv = ModulatedConv(channels) if deformable and i == num_convs - 1 else nn.Conv2d(channels, channels, 3, 1, 1)
        parts += [conv, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)]
    found = nn.Sequential(*parts)
    for part in found.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)
    return found
