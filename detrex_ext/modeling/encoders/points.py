"""Cells of feature levels as points of the image, and features at some of them.

Shape legend: B images, L levels, P points of all levels, N chosen points, C channels; (H, W) sizes of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrex_ext.structures import Features
from detrex_ext.structures.placing import placed
from detrex_ext.structures.supervision import tokens_at


@dataclass
class Points:
    """All cells of all levels, finest first, row by row.

    Attributes:
        points_P2: x and y in pixels: the middle of the cell, rounded up (FCOS, arXiv 1904.01355, section 3.1).
        strides_P: pixels per cell, float.
        levels_P: int64.
        cells_P2: int64 column and row.
        valid_BL2: columns and rows of each level that are not padding, float.
        starts: first point of each level.
    """

    points_P2: Tensor
    strides_P: Tensor
    levels_P: Tensor
    cells_P2: Tensor
    valid_BL2: Tensor
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.levels_P)

    @property
    def pad_BP(self) -> Tensor:
        """(B, P) bool, cells that are padding."""
        return (self.cells_P2 >= self.valid_BL2[:, self.levels_P]).any(-1)

    @staticmethod
    def of(features: Features, strides: Sequence[int], parity_padding: bool = False) -> Points:
        """The points of some features.

        Args:
            features: their maps and the valid sizes of the images.
            strides: pixels per cell of each level.
            parity_padding: which cells are padding as in TSP's code (:func:`cells_by_resizing`); otherwise those that
                begin outside the image.
        """
        shapes, like = [m.shape[2:] for m in features.maps], features.image_hw_B2
        cells, starts, total = [], [], 0
        for h, w in shapes:
            row, column = (torch.arange(n, device=like.device) for n in (h, w))
            cells.append(torch.stack([column.expand(h, w), row[:, None].expand(h, w)], -1).flatten(0, 1))
            starts.append(total)
            total += h * w
        cells_P2, sizes = torch.cat(cells), [h * w for h, w in shapes]
        levels = [torch.full((n,), level, device=like.device) for level, n in enumerate(sizes)]
        strides_P = torch.cat([like.new_full((n,), float(s)) for s, n in zip(strides, sizes, strict=True)])
        points_P2 = cells_P2 * strides_P[:, None] + torch.div(strides_P, 2, rounding_mode="floor")[:, None]
        valid_BL2 = (cells_by_resizing if parity_padding else cells_inside)(features, strides)
        return Points(points_P2, strides_P, torch.cat(levels), cells_P2, valid_BL2.flip(-1), tuple(starts))

    def gather(self, maps: Sequence[Tensor], index_BN: Tensor) -> Tensor:
        """(B, N, C) features of the maps (B, C, H, W) at some points of each image; no map is copied."""
        level_BN, out = self.levels_P[index_BN], None
        for level, (m, start) in enumerate(zip(maps, self.starts, strict=True)):
            own_BN = (index_BN - start).clamp(0, m.shape[2] * m.shape[3] - 1)
            found = tokens_at(m.flatten(2).transpose(1, 2), own_BN)
            out = found if out is None else found.where((level_BN == level)[..., None], out)
        return out


def cells_inside(features: Features, strides: Sequence[int]) -> Tensor:
    """(B, L, 2) rows and columns that begin inside the image."""
    return (features.image_hw_B2[:, None] / placed(list(strides), features.image_hw_B2)[:, None]).ceil()


def cells_by_resizing(features: Features, strides: Sequence[int]) -> Tensor:
    """(B, L, 2) rows and columns that are valid where a mask is made smaller again and again, as in TSP's code.

    It begins at the size of the largest image, without what the batch is padded by beyond, and is resized to half of
    that, a quarter of the batch, and each level after the other: cell i of n reads cell floor(i m / n) of m.
    """
    hw_B2 = features.image_hw_B2
    count, size = hw_B2, hw_B2.amax(0)
    finest = features.maps[0].shape
    stem = [finest[k] * strides[0] // 4 for k in (2, 3)]
    longest = max(finest[2:]) * strides[0]
    index = torch.arange(longest, device=hw_B2.device, dtype=torch.float32)[:, None]
    out = []
    sizes = [((size + 1) / 2).floor(), *(placed([float(n) for n in s], hw_B2) for s in [stem, *_shapes(features)])]
    for after in sizes:
        source_I2 = (index * (size / after).float()).floor().clamp(max=longest).minimum((size - 1).float())
        kept_BI2 = (index < after.float()) & (source_I2 < count.float()[:, None])
        count, size = kept_BI2.sum(1).to(hw_B2.dtype), after
        out.append(count)
    return torch.stack(out[2:], 1)


def _shapes(features: Features) -> list[tuple[int, int]]:
    return [(m.shape[2], m.shape[3]) for m in features.maps]
