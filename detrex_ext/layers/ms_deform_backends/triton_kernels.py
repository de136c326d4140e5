"""Deformable sampling on a GPU: the Triton kernels, one of the forward pass and one of all gradients.

A program has a tile of rows by channels. A thread holds up to 16 bytes of a row's channels, so that what is the same
for all channels (cell, fractions, masks) is computed by few threads: a row of 32 channels in bf16 has four. Sums are in
``SUM``, fp32 or fp64, whatever the values are in. Offsets within an image are int32 unless ``WIDE``, from image to
image int64.

Shape legend: T queries, S memory tokens, H heads, D channels of a head, L levels, K points; in a program R rows and
C >= D channels, a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _cell(at, is_row, size, SUM: tl.constexpr):
    """Of a coordinate of each row's point: what is beyond the cell before it, as a fraction; that cell, int32."""
    x = tl.load(at, mask=is_row, other=-2.0).to(SUM) * size - 0.5
    # what reaches no cell moves to one place outside, which infinity too can do; NaN stays in the fraction
    x = tl.where((x < -2.0) | (x > size + 1.0), -2.0, x)
    cell = tl.floor(tl.minimum(tl.maximum(x, -2.0), size + 1.0))
    return x - cell, cell.to(tl.int32)


@triton.jit
def _locate(at, point, is_row, levels, level, STEP: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr):
    """Where each row's point is on a level.

    Returns:
        Fractions x and y; offset of its upper left corner, and from there to the row of cells below; which of the two
        columns and rows of cells are inside; width and height of the level.
    """
    h = tl.load(levels + level * 3)
    w = tl.load(levels + level * 3 + 1)
    fx, x = _cell(at + point * 2, is_row, w, SUM)
    fy, y = _cell(at + point * 2 + 1, is_row, h, SUM)
    cell = tl.load(levels + level * 3 + 2) + y * w + x
    if WIDE:
        cell = cell.to(tl.int64)
    left, right = (x >= 0) & (x < w), (x >= -1) & (x < w - 1)
    high, low = (y >= 0) & (y < h), (y >= -1) & (y < h - 1)
    return fx, fy, cell * STEP, w * STEP, left, right, high, low, w, h


@triton.jit
def _weights(fx, fy, a):
    """Of the corners, upper left, upper right, lower left, lower right: by products only, so that they sum to a."""
    right = fx * a
    left = a - right
    lower_left, lower_right = fy * left, fy * right
    return left - lower_left, right - lower_right, lower_left, lower_right


@triton.jit
def _tile(row, item, T, H: tl.constexpr, WIDE: tl.constexpr):
    """Rows as offsets, and the first (query, head) of the item = (image, head), int64."""
    image, head = item // H, item % H
    if WIDE:
        row = row.to(tl.int64)
    return row, image.to(tl.int64) * T * H + head


@triton.jit(do_not_specialize=["S", "T"])
def forward(
    value, at, weight, out, levels, S, T,
    H: tl.constexpr, D: tl.constexpr, L: tl.constexpr, K: tl.constexpr, UNROLL: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, SUM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A row is a query, and its points are summed."""
    blocks = tl.cdiv(T, R)
    item = tl.program_id(0) // blocks
    query, first = _tile((tl.program_id(0) % blocks) * R + tl.arange(0, R), item, T, H, WIDE)
    channel = tl.arange(0, C)
    is_query, is_channel = query < T, (channel < D)[None, :]
    value += ((item // H).to(tl.int64) * S * H + item % H) * D
    at += first * (L * K * 2)
    weight += first * (L * K)
    total = tl.zeros((R, C), dtype=SUM)
    for level in range(L):
        for block in range(K // UNROLL):
            for i in tl.static_range(UNROLL):
                point = query * (H * L * K) + (level * K + block * UNROLL + i)
                fx, fy, corner, below, left, right, high, low, _, _ = _locate(
                    at, point, is_query, levels, level, H * D, WIDE, SUM
                )
                a = tl.load(weight + point, mask=is_query, other=0.0).to(SUM)
                v = value + (corner[:, None] + channel[None, :])
                v00 = tl.load(v, mask=(high & left)[:, None] & is_channel, other=0.0).to(SUM)
                v01 = tl.load(v + H * D, mask=(high & right)[:, None] & is_channel, other=0.0).to(SUM)
                v10 = tl.load(v + below, mask=(low & left)[:, None] & is_channel, other=0.0).to(SUM)
                v11 = tl.load(v + (below + H * D), mask=(low & right)[:, None] & is_channel, other=0.0).to(SUM)
                a00, a01, a10, a11 = _weights(fx, fy, a)
                total += v00 * a00[:, None]
                total += v01 * a01[:, None]
                total += v10 * a10[:, None]
                total += v11 * a11[:, None]
    place = out + first * D + ((query * (H * D))[:, None] + channel[None, :])
    tl.store(place, total.to(out.dtype.element_ty), mask=is_query[:, None] & is_channel)


@triton.jit(do_not_specialize=["S", "T"])
def backward(
    value, at, weight, grad, of_value, of_at, of_weight, levels, S, T,
    H: tl.constexpr, D: tl.constexpr, L: tl.constexpr, K: tl.constexpr, WANT_VALUE: tl.constexpr,
    WANT_POINTS: tl.constexpr, R: tl.constexpr, C: tl.constexpr, SUM: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A row is a point k of a query, on all levels: what is written of a level lies side by side.

    Rows meet in the values' gradients alone, whose sums are atomic.
    """
    blocks = tl.cdiv(T * K, R)
    item = tl.program_id(0) // blocks
    row, first = _tile((tl.program_id(0) % blocks) * R + tl.arange(0, R), item, T, H, WIDE)
    query, channel = row // K, tl.max_contiguous(tl.arange(0, C), 4)
    is_row, is_channel = query < T, (channel < D)[None, :]
    of_image = ((item // H).to(tl.int64) * S * H + item % H) * D
    value += of_image
    of_value += of_image
    points = first * (L * K)
    place = grad + first * D + ((query * (H * D))[:, None] + channel[None, :])
    g = tl.load(place, mask=is_row[:, None] & is_channel, other=0.0).to(SUM)
    for level in range(L):
        point = query * (H * L * K) + (level * K + row % K)
        fx, fy, corner, below, left, right, high, low, w, h = _locate(
            at + points * 2, point, is_row, levels, level, H * D, WIDE, SUM
        )
        a = tl.load(weight + points + point, mask=is_row, other=0.0).to(SUM)
        v = corner[:, None] + channel[None, :]
        m00, m01 = (high & left)[:, None] & is_channel, (high & right)[:, None] & is_channel
        m10, m11 = (low & left)[:, None] & is_channel, (low & right)[:, None] & is_channel
        if WANT_POINTS:
            d00 = tl.sum(tl.load(value + v, mask=m00, other=0.0).to(SUM) * g, 1)
            d01 = tl.sum(tl.load(value + (v + H * D), mask=m01, other=0.0).to(SUM) * g, 1)
            d10 = tl.sum(tl.load(value + (v + below), mask=m10, other=0.0).to(SUM) * g, 1)
            d11 = tl.sum(tl.load(value + (v + (below + H * D)), mask=m11, other=0.0).to(SUM) * g, 1)
            upper, lower = d00 + (d01 - d00) * fx, d10 + (d11 - d10) * fx
            slope = (d01 - d00) * (1 - fy) + (d11 - d10) * fy
            _put(of_weight + points + point, upper + (lower - upper) * fy, is_row)
            _put(of_at + (points + point) * 2, slope * a * w, is_row)
            _put(of_at + ((points + point) * 2 + 1), (lower - upper) * a * h, is_row)
        if WANT_VALUE:
            a00, a01, a10, a11 = _weights(fx, fy, a)
            # relaxed: nobody reads before the kernel ends, and an ordered atomic waits
            tl.atomic_add(of_value + v, g * a00[:, None], mask=m00, sem="relaxed")
            tl.atomic_add(of_value + (v + H * D), g * a01[:, None], mask=m01, sem="relaxed")
            tl.atomic_add(of_value + (v + below), g * a10[:, None], mask=m10, sem="relaxed")
            tl.atomic_add(of_value + (v + (below + H * D)), g * a11[:, None], mask=m11, sem="relaxed")


@triton.jit
def _put(place, x, is_row):
    tl.store(place, x.to(place.dtype.element_ty), mask=is_row)
