"""One zero-padded canvas for the maps of all levels, one below the other.

Shape legend: S memory tokens, H heads, D channels of a head, L levels, K points, R = H L K, N cells of the canvas.
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


def levels(canvas: Canvas, table_NX: Tensor) -> list[Tensor]:
    """Views (h, w, ...) of the levels of a canvas."""
    views = []
    for (h, w), first in zip(canvas.shapes, canvas.firsts, strict=True):
        rows = table_NX[first : first + h * canvas.width].unflatten(0, (h, canvas.width))
        views.append(rows[:, :w])
    return views


def spread(canvas: Canvas, value_SHD: Tensor, dtype: torch.dtype) -> Tensor:
    """(S, H, D) -> (N + width + 1, H, D)."""
    table = value_SHD.new_zeros(canvas.cells + canvas.width + 1, *value_SHD.shape[1:], dtype=dtype)
    parts = value_SHD.split([h * w for h, w in canvas.shapes])
    for view, part in zip(levels(canvas, table), parts, strict=True):
        view.copy_(part.unflatten(0, view.shape[:2]))
    return table
