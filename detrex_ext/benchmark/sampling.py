"""Work of the suites `sampling` and `tiles`: one pass of deformable sampling at the sizes of published models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from detrex_ext.errors import UserError
from detrex_ext.layers.ms_deform_attn import ms_deform_attn
from detrex_ext.layers.ms_deform_backends import Shapes, load

from .attention import HEADS, POINTS, STRIDES, WIDTH, samplers
from .measure import Work

SIZE = (800, 1333)  # pixels of an image
# queries; None = each token of the memory is one
PLACES = {
    "encoder": None,
    "decoder of Deformable-DETR, 300 queries": 300,
    "decoder of DINO, 900 queries and 200 of denoising": 1100,
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PASSES = ("forward", "backward")
# by pass: (rows, warps) that are tried for heads of 32 channels
TILES = {
    "forward": ((8, 2), (16, 2), (16, 4), (32, 4), (64, 4), (32, 8), (64, 8)),
    "backward": ((4, 1), (8, 1), (16, 1), (16, 2), (16, 4), (32, 4), (64, 8)),
}


def cases(device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(case, arguments of :func:`work`) of the suite `sampling`; large batches where there is a GPU."""
    for place, queries in PLACES.items():
        for batch in (2,) if torch.device(device).type == "cpu" else (2, 8):
            for which in PASSES:
                case = f"{place}, {SIZE[0]}x{SIZE[1]}, batch of {batch}, {which}"
                for dtype in TYPES:
                    for impl in samplers(device):
                        yield case, {"impl": impl, "dtype": dtype, "which": which, "batch": batch, "queries": queries}


def work(impl: str, device: str, dtype: str, which: str, batch: int, queries: int | None) -> Work:
    """A pass by a backend, of values in a type; locations and weights are in fp32, as autocast leaves them.

    Args:
        impl: the backend.
        device: where.
        dtype: of ``TYPES``.
        which: of ``PASSES``.
        batch: images.
        queries: of an image; None for an encoder.
    """
    load(impl)
    inputs, shapes, upstream = inputs_of(device, dtype, batch, queries)

    def forward() -> Tensor:
        return ms_deform_attn(inputs[0], shapes, *inputs[1:], impl)

    if which == "forward":
        return forward
    out = forward()
    upstream = upstream.to(out.dtype)
    return lambda: torch.autograd.grad(out, inputs, upstream, retain_graph=True)


def inputs_of(device: str, dtype: str, batch: int, queries: int | None) -> tuple[list[Tensor], Shapes, Tensor]:
    """Leaves value (B, S, H, D), locations (B, T, H, L, K, 2) and weights; (height, width) of each level; a gradient.

    Points of an encoder's query are within some cells of its own, those of a decoder's around one anywhere.
    """
    make = torch.Generator(device).manual_seed(0)
    shapes = tuple((-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in STRIDES)
    wh_L = torch.tensor([(w, h) for h, w in shapes], device=device)[:, None]
    if queries is None:
        ticks = [[(torch.arange(n, device=device) + 0.5) / n for n in hw] for hw in shapes]
        center_T2 = torch.cat([torch.cartesian_prod(y, x).flip(-1) for y, x in ticks])
    else:
        center_T2 = torch.rand(queries, 2, device=device, generator=make)
    sizes = (batch, len(center_T2), HEADS, len(shapes), POINTS)
    cells = 2 * torch.randn(*sizes, 2, device=device, generator=make)
    at = center_T2[None, :, None, None, None] + cells / wh_L
    weight = torch.rand(sizes, device=device, generator=make) / sizes[-1]
    rows = sum(h * w for h, w in shapes)
    value = torch.randn(batch, rows, HEADS, WIDTH, device=device, generator=make).to(TYPES[dtype])
    upstream = torch.randn(*sizes[:2], HEADS * WIDTH, device=device, generator=make)
    return [x.requires_grad_() for x in (value, at, weight)], shapes, upstream


def tile_cases(device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(case, arguments of :func:`tile_work`) of the suite `tiles`.

    Raises:
        UserError: Triton does not work on the device.
    """
    if "triton" not in samplers(device):
        raise UserError("suite tiles measures the Triton kernels\n  expected a GPU on which they work: --device cuda")
    for place in ("encoder", "decoder of DINO, 900 queries and 200 of denoising"):
        for which in PASSES:
            for dtype in ("fp32", "bf16"):
                for cut in (None, *TILES[which]):
                    case = f"tiles, {place}, batch of 2, {which}, {dtype}"
                    yield case, {"cut": cut, "dtype": dtype, "which": which, "queries": PLACES[place]}


def tile_work(device: str, cut: tuple[int, int] | None, dtype: str, which: str, queries: int | None) -> Work:
    """A pass of the Triton kernels by a tile (rows, warps), or by that in use."""
    from detrex_ext.layers.ms_deform_backends import triton_backend  # triton is optional

    inputs, shapes, upstream = inputs_of(device, dtype, 2, queries)
    given = [x.detach() for x in inputs]
    if which == "forward":
        return lambda: triton_backend.forward(*given, shapes, cut)
    upstream = upstream.to(given[0].dtype)
    return lambda: triton_backend.backward(*given, upstream, shapes, (True, True, True), cut)
