"""Feature maps and encoder memory.

Shape legend: B images, L levels, S tokens of all levels, C channels; (H, W) sizes of a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .placing import moved
from .supervision import Prior


@dataclass
class Features:
    """Feature maps of a neck, finest level first, with what is padding in each.

    Attributes:
        maps: per level (B, C, H, W).
        pads: per level (B, H, W) bool, True = padding.
        strides: pixels per cell of each level.
        image_hw_B2: float, height and width of each image's valid area in the padded batch, in pixels.
    """

    maps: list[Tensor]
    pads: list[Tensor]
    strides: tuple[int, ...]
    image_hw_B2: Tensor

    @staticmethod
    def from_maps(maps: list[Tensor], valid_hw_B2: Tensor, padded_hw: tuple[int, int]) -> Features:
        """Pads of each level by nearest sampling of the image mask: cell i is padding where floor(i H / h) is.

        Args:
            maps: per level (B, C, h, w).
            valid_hw_B2: valid height and width of each image in pixels.
            padded_hw: size of the padded batch in pixels.
        """
        pads = []
        for m in maps:
            along = [
                _source_index(m.shape[axis], size, m.device)[None] >= valid_hw_B2[:, k, None]
                for k, (axis, size) in enumerate(zip((2, 3), padded_hw, strict=True))
            ]
            pads.append(along[0][:, :, None] | along[1][:, None, :])
        strides = tuple(max(1, round(padded_hw[0] / m.shape[2])) for m in maps)
        return Features(maps, pads, strides, valid_hw_B2)


def _source_index(cells: int, pixels: int, device: torch.device) -> Tensor:
    """Pixel that nearest-neighbor interpolation reads for each cell (torch's rule, fp32 scale)."""
    scale = torch.tensor(pixels, dtype=torch.float32) / cells
    index = torch.floor(torch.arange(cells, dtype=torch.float32) * scale).clamp(max=pixels - 1)
    return moved(index, device)


@dataclass
class Memory:
    """What decoders attend to.

    Attributes:
        tokens_BSC: encoder output, levels side by side, finest first, row-major.
        pos_BSC: position code of each token, or None where no decoder needs it.
        pad_BS: bool, True = padding; None = nothing is padding.
        shapes: (H, W) per level.
        strides: pixels per cell of each level.
        valid_BL2: valid fraction of each level as (x, y), each in (0, 1].
        image_hw_B2: valid image size in pixels.
        prior: places of tokens, for sparse encoders.
    """

    tokens_BSC: Tensor
    pos_BSC: Tensor | None
    pad_BS: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    valid_BL2: Tensor
    image_hw_B2: Tensor
    prior: Prior | None = None
