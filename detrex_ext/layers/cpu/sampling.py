"""Deformable sampling on a CPU as embedding bags.

All levels of an image lie one below the other on one zero-padded canvas of common width, so that a sampling point is
one index (its upper left cell), its four corners are the same index into four shifted views of the canvas, and points
outside a map need no test. Forward, each corner is an embedding bag: a weighted sum of rows, torch's best vectorized
gather. Backward, the gradient of the corner weights is a sampled matrix product, and the gradient of the values is
again four bags, of the points sorted by cell. Nothing is kept between the passes but the inputs.

Shape legend: B images, T queries, S memory tokens, H heads, D channels of a head, L levels, K points, R = H L K,
N cells of the canvas.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..sampling_operator import Levels, Passes, sampling
from .canvas import Canvas, canvas_of, levels, spread
from .common import Shapes

# Images with so many points in all, or rows, are sampled together: with fewer the operators' start counts, with more
# they do not fit the cache.
POINTS = 1 << 16


def _pattern(starts: Tensor, column_P: Tensor, values_P: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse matrix by rows whose columns need neither order nor uniqueness."""
    return torch.sparse_csr_tensor(starts, column_P, values_P, size, check_invariants=False)


with warnings.catch_warnings():
    # torch says once per process that sparse matrices are in beta, which is no news to who trains a detector
    warnings.simplefilter("ignore")
    _pattern(torch.tensor([0, 1]), torch.tensor([0]), torch.zeros(1), (1, 1))


def _locate(
    canvas: Canvas, at_BTX: Tensor, heads: int, want_inside: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Row (image, cell, head) of each point's upper left corner, int32, fractions x and y; 1 inside and 0 out.

    All are (B, T, R), the last is (B, T, 2R). A point outside moves onto the border of the padding, where
    all it can reach is zero or has weight zero.
    """
    xy = torch.mul(at_BTX, canvas.size_X).sub_(0.5)
    # comparisons in place stay floats, and multiplying by them is much faster than masking
    inside = xy.clone().ge_(-1).mul_(xy.clone().lt_(canvas.size_X)) if want_inside else None
    xy.clamp_(min=-1).clamp_(max=canvas.size_X)
    corner = xy.floor()
    fx, fy = (f.contiguous() for f in xy.sub_(corner).unflatten(-1, (-1, 2)).unbind(-1))
    x, y = corner.unflatten(-1, (-1, 2)).unbind(-1)
    # whole numbers, exact in floats for canvases of up to 2^24 cells
    row = torch.add(x, y, alpha=canvas.width).to(torch.int32).mul_(heads).add_(canvas.row_R)
    # NaN has no cell: any will do, as it stays in the fractions and so in the result
    row.clamp_(0, canvas.cells * heads - 1)
    images = len(row)
    if images > 1:
        row += torch.arange(0, images * canvas.size * heads, canvas.size * heads, dtype=torch.int32)[:, None, None]
    return row, fx, fy, inside


def _corner_weights(fx: Tensor, fy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the corners (y, x) = 00, 01, 10, 11; by products only, so that they sum to ``weight``."""
    right = fx * weight
    left = weight - right
    low_left, low_right = fy * left, fy * right
    return left.sub_(low_left), right.sub_(low_right), low_left, low_right


def _corners(canvas: Canvas, table_BNHD: Tensor, rows: bool = True) -> list[Tensor]:
    """Four views of the cells of all images: themselves, one right, one down, both; by rows (cell, head), or cells."""
    table, heads = (table_BNHD.flatten(0, 2), table_BNHD.shape[2]) if rows else (table_BNHD.flatten(0, 1), 1)
    shifts = (0, 1, canvas.width, canvas.width + 1)
    last = len(table) - shifts[-1] * heads
    return [table[s * heads : s * heads + last] for s in shifts]


def _forward(canvas: Canvas, value_BSHD: Tensor, at_BTX: Tensor, weight_BTR: Tensor) -> Tensor:
    """(B, T, C)."""
    B, T, H = *at_BTX.shape[:2], value_BSHD.shape[2]
    row, fx, fy, _ = _locate(canvas, at_BTX, H, False)
    table = spread(canvas, value_BSHD, at_BTX.dtype)
    total = None
    for part, w in zip(_corners(canvas, table), _corner_weights(fx, fy, weight_BTR), strict=True):
        bag = F.embedding_bag(row.view(B * T * H, -1), part, mode="sum", per_sample_weights=w.view(B * T * H, -1))
        total = bag if total is None else total.add_(bag)
    return total.view(B, T, -1)


def _point_grads(
    canvas: Canvas, located: tuple[Tensor, ...], table: Tensor, grad_XD: Tensor, weight_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of locations (B, T, 2R) and weights: each corner's <gradient, value>, then the bilinear rule."""
    row, fx, fy, inside = located
    queries, corners = len(grad_XD), _corners(canvas, table)
    starts = torch.arange(0, row.numel() + 1, row.numel() // queries, dtype=torch.int32)
    pattern = _pattern(starts, row.view(-1), torch.zeros_like(fx).view(-1), (queries, len(corners[0])))
    d00, d01, d10, d11 = (
        torch.sparse.sampled_addmm(pattern, grad_XD, part.t(), beta=0.0).values().view_as(fx) for part in corners
    )
    high, low = torch.lerp(d00, d01, fx), torch.lerp(d10, d11, fx)
    grad_at = torch.empty(*fx.shape, 2, dtype=fx.dtype)
    torch.mul(d01.sub_(d00).lerp_(d11.sub_(d10), fy), weight_BTR, out=grad_at[..., 0])
    torch.mul(low - high, weight_BTR, out=grad_at[..., 1])
    return grad_at.flatten(-2).mul_(inside.mul_(canvas.size_X)), high.lerp_(low, fy)


def _value_grad(canvas: Canvas, located: tuple[Tensor, ...], grad_XD: Tensor, weight_BTR: Tensor, heads: int) -> Tensor:
    """(B, S, H, D): each cell's bag of the points on it, once per corner, shifted to that corner and added."""
    row, fx, fy, _ = located
    table = grad_XD.new_zeros(len(row), canvas.size, heads, grad_XD.shape[1])
    corners = _corners(canvas, table, rows=False)
    order = row.view(-1).sort().indices.to(torch.int32)
    count = torch.bincount(row.view(-1), minlength=len(corners[0]) * heads)
    starts = (count.cumsum(0) - count).to(torch.int32)
    source = torch.div(order, row.numel() // len(grad_XD), rounding_mode="floor")
    sorted_by_cell = (x.reshape(-1).index_select(0, order) for x in (fx, fy, weight_BTR))
    for part, w in zip(corners, _corner_weights(*sorted_by_cell), strict=True):
        part += F.embedding_bag(source, grad_XD, starts, mode="sum", per_sample_weights=w).view_as(part)
    return torch.cat([view.flatten(1, 2) for view in levels(canvas, table)], 1)


def _blocks(at_BTX: Tensor, heads: int, canvas: Canvas) -> list[slice]:
    """Images that are sampled together."""
    points, cells = at_BTX[0].numel() // 2, canvas.size * heads
    count = max(1, POINTS // max(points, cells, 1))
    return [slice(b, b + count) for b in range(0, len(at_BTX), count)]


def forward(value: Tensor, at: Tensor, weight: Tensor, shapes: Levels) -> Tensor:
    """(B, T, C)."""
    canvas = canvas_of(shapes, value.shape[2], weight.shape[-1], at.dtype)
    at, weight = at.flatten(2), weight.flatten(2)
    return torch.cat([_forward(canvas, value[b], at[b], weight[b]) for b in _blocks(at, value.shape[2], canvas)])


def backward(
    value: Tensor, at: Tensor, weight: Tensor, grad_BTC: Tensor, shapes: Levels, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of values, locations and weights."""
    heads = value.shape[2]
    canvas = canvas_of(shapes, heads, weight.shape[-1], at.dtype)
    of_value, *of_points = wanted
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (value, at, weight)]
    at_BTX, weight_BTR = at.flatten(2), weight.flatten(2)
    for b in _blocks(at_BTX, heads, canvas):
        grad_XD = grad_BTC[b].unflatten(-1, (heads, -1)).reshape(-1, value.shape[3])
        located = _locate(canvas, at_BTX[b], heads, any(of_points))
        if any(of_points):
            table = spread(canvas, value[b], at.dtype)
            of_at, of_weight = _point_grads(canvas, located, table, grad_XD, weight_BTR[b])
            grads[1][b], grads[2][b] = of_at.view_as(at[b]), of_weight.view_as(weight[b])
        if of_value:
            grads[0][b] = _value_grad(canvas, located, grad_XD, weight_BTR[b], heads)
    return [g if want else None for g, want in zip(grads, wanted, strict=True)]


def fits(value_BSHD: Tensor, at_BTHLK2: Tensor | None = None) -> bool:
    """On a CPU."""
    return value_BSHD.device.type == "cpu"


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`. Differentiable once.

    Raises:
        RuntimeError: off the CPU.
    """
    if value_BSHD.device.type != "cpu":
        raise RuntimeError("the cpu backend of ms_deform_attn runs on a CPU only; choose another")
    return _sample(value_BSHD, shapes, at_BTHLK2, weight_BTHLK)


_sample = sampling("ms_deform_cpu", Passes(forward, backward, lambda value, at: at.dtype))
