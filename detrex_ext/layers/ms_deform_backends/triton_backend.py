"""Deformable sampling on a GPU: one Triton kernel for all levels and points, one for all gradients.

Nothing is compiled at install; Triton compiles at first use. With ``TRITON_INTERPRET=1`` the kernels run on a CPU,
slowly, for tests. Gradients of values are summed by atomics, so their last bits vary from run to run.

Shape legend: T queries, S memory tokens, H heads, D channels of a head, L levels, K points.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from detrex_ext.structures.placing import moved

from . import Shapes

QUERIES_PER_PROGRAM = 16


@triton.jit
def _locate(at, is_query, size):
    """Of a coordinate of each query's point: what is beyond the cell before it, as a fraction; that cell, int32."""
    x = tl.load(at, mask=is_query, other=-2.0) * size - 0.5
    # what reaches no cell moves to one place outside, which infinity too can do; NaN stays in the fraction
    x = tl.where((x < -2.0) | (x > size + 1.0), -2.0, x)
    cell = tl.floor(tl.minimum(tl.maximum(x, -2.0), size + 1.0))
    return x - cell, cell.to(tl.int32)


@triton.jit
def _corner(value, x, y, w, h, first, head_row, H, D, channel, is_channel):
    """Values (queries, D) of one corner, zero outside the map; where they lie; which are inside."""
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    row = first + tl.where(inside, y * w + x, 0)
    mask = inside[:, None] & is_channel[None, :]
    place = (head_row + row.to(tl.int64) * H)[:, None] * D + channel[None, :]
    return tl.load(value + place, mask=mask, other=0.0), place, mask


@triton.jit
def _forward(value, at, weight, out, levels, S, T, H, D, L, K, BT: tl.constexpr, BD: tl.constexpr):
    query = tl.program_id(0) * BT + tl.arange(0, BT)
    image, head = tl.program_id(1) // H, tl.program_id(1) % H
    channel = tl.arange(0, BD)
    is_query, is_channel = query < T, channel < D
    head_row = image.to(tl.int64) * S * H + head
    query_row = (image.to(tl.int64) * T + query) * H + head
    total = tl.zeros((BT, BD), dtype=at.dtype.element_ty)
    for level in range(L):
        h = tl.load(levels + level * 3)
        w = tl.load(levels + level * 3 + 1)
        first = tl.load(levels + level * 3 + 2)
        for k in range(K):
            point = query_row * (L * K) + level * K + k
            fx, x0 = _locate(at + point * 2, is_query, w)
            fy, y0 = _locate(at + point * 2 + 1, is_query, h)
            a = tl.load(weight + point, mask=is_query, other=0.0)
            v00, _, _ = _corner(value, x0, y0, w, h, first, head_row, H, D, channel, is_channel)
            v01, _, _ = _corner(value, x0 + 1, y0, w, h, first, head_row, H, D, channel, is_channel)
            v10, _, _ = _corner(value, x0, y0 + 1, w, h, first, head_row, H, D, channel, is_channel)
            v11, _, _ = _corner(value, x0 + 1, y0 + 1, w, h, first, head_row, H, D, channel, is_channel)
            total += v00 * ((1 - fx) * (1 - fy) * a)[:, None] + v01 * (fx * (1 - fy) * a)[:, None]
            total += v10 * ((1 - fx) * fy * a)[:, None] + v11 * (fx * fy * a)[:, None]
    place = query_row[:, None] * D + channel[None, :]
    tl.store(out + place, total, mask=is_query[:, None] & is_channel[None, :])


@triton.jit
def _backward(
    value, at, weight, grad, of_value, of_at, of_weight, levels, S, T, H, D, L, K,
    WANT_VALUE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * BT + tl.arange(0, BT)
    image, head = tl.program_id(1) // H, tl.program_id(1) % H
    channel = tl.arange(0, BD)
    is_query, is_channel = query < T, channel < D
    head_row = image.to(tl.int64) * S * H + head
    query_row = (image.to(tl.int64) * T + query) * H + head
    place = query_row[:, None] * D + channel[None, :]
    g = tl.load(grad + place, mask=is_query[:, None] & is_channel[None, :], other=0.0)
    for level in range(L):
        h = tl.load(levels + level * 3)
        w = tl.load(levels + level * 3 + 1)
        first = tl.load(levels + level * 3 + 2)
        for k in range(K):
            point = query_row * (L * K) + level * K + k
            fx, x0 = _locate(at + point * 2, is_query, w)
            fy, y0 = _locate(at + point * 2 + 1, is_query, h)
            a = tl.load(weight + point, mask=is_query, other=0.0)
            v00, p00, m00 = _corner(value, x0, y0, w, h, first, head_row, H, D, channel, is_channel)
            v01, p01, m01 = _corner(value, x0 + 1, y0, w, h, first, head_row, H, D, channel, is_channel)
            v10, p10, m10 = _corner(value, x0, y0 + 1, w, h, first, head_row, H, D, channel, is_channel)
            v11, p11, m11 = _corner(value, x0 + 1, y0 + 1, w, h, first, head_row, H, D, channel, is_channel)
            d00, d01 = tl.sum(v00 * g, 1), tl.sum(v01 * g, 1)
            d10, d11 = tl.sum(v10 * g, 1), tl.sum(v11 * g, 1)
            high, low = d00 + (d01 - d00) * fx, d10 + (d11 - d10) * fx
            slope = (d01 - d00) * (1 - fy) + (d11 - d10) * fy
            tl.store(of_weight + point, high + (low - high) * fy, mask=is_query)
            tl.store(of_at + point * 2, slope * a * w, mask=is_query)
            tl.store(of_at + point * 2 + 1, (low - high) * a * h, mask=is_query)
            if WANT_VALUE:
                tl.atomic_add(of_value + p00, g * ((1 - fx) * (1 - fy) * a)[:, None], mask=m00)
                tl.atomic_add(of_value + p01, g * (fx * (1 - fy) * a)[:, None], mask=m01)
                tl.atomic_add(of_value + p10, g * ((1 - fx) * fy * a)[:, None], mask=m10)
                tl.atomic_add(of_value + p11, g * (fx * fy * a)[:, None], mask=m11)


@functools.lru_cache(maxsize=256)
def _levels(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(L, 3) int32: height, width, first token."""
    rows, first = [], 0
    for h, w in shapes:
        rows.append((h, w, first))
        first += h * w
    return moved(torch.tensor(rows, dtype=torch.int32), device)


def _launch(kernel: Any, tensors: tuple[Tensor, ...], value: Tensor, at: Tensor, levels: Tensor, **flags: bool) -> None:
    B, S, H, D = value.shape
    T, L, K = at.shape[1], at.shape[3], at.shape[4]
    grid = (triton.cdiv(T, QUERIES_PER_PROGRAM), B * H)
    sizes = {"BT": QUERIES_PER_PROGRAM, "BD": triton.next_power_of_2(D)}
    with torch.cuda.device_of(value):  # Triton launches on the current device, whatever the tensors are on
        kernel[grid](*tensors, levels, S, T, H, D, L, K, **flags, **sizes)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, at: Tensor, weight: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
        value, at, weight = value.contiguous(), at.contiguous(), weight.contiguous()
        ctx.save_for_backward(value, at, weight)
        ctx.levels = _levels(shapes, value.device)
        out = at.new_empty(*at.shape[:3], value.shape[-1])
        _launch(_forward, (value, at, weight, out), value, at, ctx.levels)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:
        value, at, weight = ctx.saved_tensors
        # sums of many small terms: never in half precision
        of_value = torch.zeros_like(value, dtype=at.dtype)
        of_at, of_weight = torch.empty_like(at), torch.empty_like(weight)
        tensors = (value, at, weight, grad_BTC.contiguous(), of_value, of_at, of_weight)
        _launch(_backward, tensors, value, at, ctx.levels, WANT_VALUE=bool(ctx.needs_input_grad[0]))
        grads = (of_value.to(value.dtype), of_at, of_weight)
        return *(g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)), None


def sample(value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor) -> Tensor:
    """See :mod:`detrex_ext.layers.ms_deform_backends`. Differentiable once."""
    return _Sample.apply(value_BSHD, at_BTHLK2, weight_BTHLK, tuple((int(h), int(w)) for h, w in shapes))
