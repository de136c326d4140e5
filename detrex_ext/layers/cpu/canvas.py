"""One zero-padded canvas for the maps of all levels, one below the other.

Shape legend: B images, S memory tokens, H heads, D channels of a head, L levels, K points, R = H L K, N cells of the
canvas.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Canvas(NamedTuple):
    """Where each level lies. Rows of ``width`` cells; one empty row above each level and column left of it.

    R = H L K points of a query; constants are spelled out for all of them, which vectorizes better than broadcasting.
    """

    shapes: tuple[tuple[int, int], ...]
    width: int
    cells: int  # N, those that can be the upper left corner of a point
    firsts: tuple[int, ...]  # cell of x = 0, y = 0 of each level
    size_X: Tensor  # (2R,) width and height of the point's level, x and y in turn
    row_R: Tensor  # row of that cell and the point's head

    @property
    def size(self) -> int:
        """Cells, the border included."""
        return self.cells + self.width + 1


@functools.lru_cache(maxsize=64)
def canvas_of(shapes: tuple[tuple[int, int], ...], heads: int, points: int, dtype: torch.dtype) -> Canvas:
    """The canvas of these levels, for ``points`` = L K of each head."""
    width = max(w for _, w in shapes) + 1
    rows, firsts = 1, []
    for h, _ in shapes:
        firsts.append(rows * width + 1)
        rows += h + 1
    size = torch.tensor([[w, h] for h, w in shapes], dtype=dtype)
    head_HL1 = torch.tensor(firsts, dtype=torch.int32)[:, None] * heads + torch.arange(heads).int()[:, None, None]
    return Canvas(
        shapes,
        width,
        rows * width + 1,
        tuple(firsts),
        size[:, None].expand(heads, -1, points, 2).flatten(),
        head_HL1.expand(-1, -1, points).flatten(),
    )


def levels(canvas: Canvas, table_BNX: Tensor) -> list[Tensor]:
    """Views (B, h, w, ...) of the levels of a canvas for each image."""
    views = []
    for (h, w), first in zip(canvas.shapes, canvas.firsts, strict=True):
        rows = table_BNX[:, first : first + h * canvas.width].unflatten(1, (h, canvas.width))
        views.append(rows[:, :, :w])
    return views


def spread(canvas: Canvas, value_BSHD: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, S, H, D) -> (B, N + width + 1, H, D)."""
    table = value_BSHD.new_zeros(len(value_BSHD), canvas.size, *value_BSHD.shape[2:], dtype=dtype)
    parts = value_BSHD.split([h * w for h, w in canvas.shapes], 1)
    for view, part in zip(levels(canvas, table), parts, strict=True):
        view.copy_(part.unflatten(1, view.shape[1:3]))
    return table
