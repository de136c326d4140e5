"""Inputs of deformable sampling whose outcome does not hang on rounding, and how far an outcome is from fp64.

Shape legend: B images, S memory tokens, T queries, H heads, D channels of a head, L levels, K points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrex_ext.layers.ms_deform_attn import ms_deform_attn
from detrex_ext.layers.ms_deform_backends import Shapes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# of the largest value of a tensor; products and sums are in fp32, what is handed out in half is rounded once or, a
# gradient summed in it, a few times
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
_OUTPUTS = ("out", "value", "at", "weight")


@dataclass(frozen=True)
class Sizes:
    """Of a problem."""

    shapes: Shapes
    B: int = 2
    T: int = 13
    H: int = 2
    D: int = 8
    K: int = 3


def inputs(sizes: Sizes, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """Leaves value (B, S, H, D) of a type, locations (B, T, H, L, K, 2) and weights (B, T, H, L, K) in fp32.

    A third of the points lies outside its map, some far away. None is near a border of a cell, where a rounded
    location would choose another cell and so another gradient.
    """
    make = torch.Generator(device).manual_seed(seed)
    like = {"generator": make, "device": device}
    B, T, H, D, K, L = sizes.B, sizes.T, sizes.H, sizes.D, sizes.K, len(sizes.shapes)
    value = torch.randn(B, sum(h * w for h, w in sizes.shapes), H, D, **like)
    wh_L2 = torch.tensor([(w, h) for h, w in sizes.shapes], dtype=torch.float32, device=device)[:, None]
    cell = ((torch.rand(B, T, H, L, K, 2, **like) * 1.5 - 0.25) * wh_L2).floor()
    if T > 2:
        cell[:, :2] *= 40
    at = (cell + 0.05 + 0.9 * torch.rand(cell.shape, **like) + 0.5) / wh_L2
    weight = torch.randn(B, T, H, L, K, **like)
    return [x.requires_grad_() for x in (value.to(dtype), at, weight)]


def outcome(backend: str, shapes: Shapes, leaves: Sequence[Tensor], upstream: Tensor | None = None) -> list[Tensor]:
    """The sampled values (B, T, C) and the gradients of the three inputs, for a gradient that is drawn or given."""
    out = ms_deform_attn(leaves[0], shapes, leaves[1], leaves[2], backend)
    if upstream is None:
        upstream = drawn(out)
    return [out.detach(), *torch.autograd.grad(out, list(leaves), upstream.to(out))]


def drawn(like: Tensor) -> Tensor:
    """Numbers of a tensor's shape, the same on every device."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


def in_double(leaves: Sequence[Tensor], device: str = "cpu") -> list[Tensor]:
    """The same numbers in fp64."""
    return [x.detach().to(device, torch.float64).requires_grad_() for x in leaves]


def distances(outs: Sequence[Tensor], wanted: Sequence[Tensor]) -> dict[str, float]:
    """Largest difference of each output, as a share of what its type allows; more than 1 is wrong.

    It is infinite where shapes differ or a value is not finite.
    """
    found = {}
    for name, out, want in zip(_OUTPUTS, outs, wanted, strict=True):
        if out.shape != want.shape:
            found[name] = float("inf")
        elif not out.numel():
            found[name] = 0.0
        else:
            scale = float(want.abs().max().clamp(min=1e-3)) * TOLERANCE.get(out.dtype, 1e-11)
            far = float((out.to(want) - want).abs().max()) / scale
            found[name] = far if far == far else float("inf")
    return found
