"""Deformable sampling on a GPU: one Triton kernel for all levels and points, one for all gradients.

Nothing is compiled at install; Triton compiles at first use. With ``TRITON_INTERPRET=1`` the kernels run on a CPU,
slowly, for tests.

Values in half precision are read as they are and summed in fp32; the result is in their type, as the product that
follows would round it anyway. Their gradients are summed by atomics in fp32 and rounded once. Atomics come in any
order, so the last bits vary from run to run, and torch's deterministic mode refuses them; ``auto`` takes ``gather``
there. Gradients of locations and weights need none: a point's are the work of one program.

Points are not sorted by cell, nor have the coarse levels copies of their own to sum into. Each level receives as many
sums as any other, and a GPU's cache sums to one place about as fast as to many, so copies save little; a sort moves
more memory than the sums. This is reckoned, not measured. What the code shows is that a sum is of 4 channels at once
where the GPU can (Hopper, with Triton 3.6).

Shape legend: B images, T queries, S memory tokens, H heads, D channels of a head, L levels, K points.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from detrex_ext.structures.placing import moved

from ..sampling_operator import Levels, Passes, sampling
from . import triton_kernels

_DETERMINISTIC = (
    "the gradient of values of the triton backend of ms_deform_attn is not deterministic, which "
    "torch.use_deterministic_algorithms asks for; with backend 'auto' or 'gather' it is"
)


class Tile(NamedTuple):
    """How a kernel is cut: rows of a program, and warps that work on them."""

    rows: int
    warps: int


WIDE = 2**31  # elements of an image from which offsets have 64 bits

# By (pass, channels of a head as a power of two, bytes of a value): where a measurement says other than the rule.
TILES: dict[tuple[str, int, int], Tile] = {}


@functools.cache
def tile(kernel: str, channels: int, itemsize: int) -> Tile:
    """The tile of a kernel. It depends on the model alone, so that no batch is slow for being the first of its size.

    Forward, each of 128 threads reads 16 bytes of a row. Backward, a thread adds 16 bytes, which are 4 channels of
    fp32, in two rows, for more reads under way at once; a program is one warp, so that no thread waits for another.

    Args:
        kernel: "forward" or "backward".
        channels: D.
        itemsize: bytes of a value.
    """
    width = triton.next_power_of_2(channels)
    rule = Tile(128 * max(16 // itemsize, 1), 4) if kernel == "forward" else Tile(32 * 4 * 2, 1)
    return TILES.get((kernel, width, itemsize)) or Tile(max(rule.rows // width, 1), rule.warps)


@functools.lru_cache(maxsize=256)
def _levels(levels: Levels, device: torch.device) -> Tensor:
    """(L, 3) int32: height, width, first token."""
    rows, first = [], 0
    for h, w in levels:
        rows.append((h, w, first))
        first += h * w
    return moved(torch.tensor(rows, dtype=torch.int32), device)


def _launch(name: str, tensors: tuple[Tensor, ...], levels: Levels, cut: Tile | None, **flags: Any) -> None:
    value, at = tensors[:2]
    B, S, H, D = value.shape
    T, L, K = at.shape[1], at.shape[3], at.shape[4]
    rows, warps = cut or tile(name, D, value.element_size())
    count = triton.cdiv(T if name == "forward" else T * K, rows) * B * H
    sizes = {"H": H, "D": D, "L": L, "K": K, "R": rows, "C": triton.next_power_of_2(D)}
    # of an image; how far images lie apart is always counted in 64 bits
    wide = max(S * H * D, T * H * max(D, 2 * L * K)) >= WIDE
    sums = tl.float64 if torch.float64 in (value.dtype, at.dtype) else tl.float32
    if not count:
        return
    with torch.cuda.device_of(value):  # Triton launches on the current device, whatever the tensors are on
        kernel = getattr(triton_kernels, name)[(count,)]
        sizes |= {"SUM": sums, "WIDE": wide, "num_warps": warps, "enable_fp_fusion": True}
        kernel(*tensors, _levels(levels, value.device), S, T, **sizes, **flags)


def _dtype(value: Tensor, at: Tensor) -> torch.dtype:
    half = value.element_size() < 4 and at.element_size() <= 4
    return value.dtype if half else torch.promote_types(value.dtype, at.dtype)


def forward(value: Tensor, at: Tensor, weight: Tensor, levels: Levels, cut: Tile | None = None) -> Tensor:
    """(B, T, C), by a tile other than that of :func:`tile` if one is given."""
    value, at, weight = value.contiguous(), at.contiguous(), weight.contiguous()
    out = value.new_empty(*at.shape[:2], value.shape[2] * value.shape[3], dtype=_dtype(value, at))
    K = at.shape[4]
    _launch("forward", (value, at, weight, out), levels, cut, UNROLL=next(n for n in (4, 3, 2, 1) if K % n == 0))
    return out


def backward(
    value: Tensor, at: Tensor, weight: Tensor, grad: Tensor, levels: Levels, wanted: Sequence[bool],
    cut: Tile | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of values, locations and weights, those that are wanted; the tile as in :func:`forward`.

    Raises:
        RuntimeError: in torch's deterministic mode, if that of values is.
    """
    want_value, want_points = wanted[0], wanted[1] or wanted[2]
    if want_value and torch.are_deterministic_algorithms_enabled():
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(_DETERMINISTIC)
        warnings.warn(_DETERMINISTIC, stacklevel=2)
    value, at, weight = value.contiguous(), at.contiguous(), weight.contiguous()
    # sums of many small terms: never in half precision
    sums = torch.promote_types(torch.promote_types(value.dtype, at.dtype), torch.float32)
    of_value = torch.zeros(value.shape if want_value else (0,), dtype=sums, device=value.device)
    of_at, of_weight = (torch.empty_like(x) if want_points else x.new_empty(0) for x in (at, weight))
    tensors = (value, at, weight, grad.contiguous(), of_value, of_at, of_weight)
    _launch("backward", tensors, levels, cut, WANT_VALUE=want_value, WANT_POINTS=want_points)
    grads = (of_value.to(value.dtype), of_at, of_weight)
    return tuple(g if want else None for g, want in zip(grads, wanted, strict=True))


sample = sampling("ms_deform_triton", Passes(forward, backward, _dtype))
