"""Work of the suite `attention`: deformable sampling and dense attention, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detrex_ext.layers.attention import attention
from detrex_ext.layers.ms_deform_attn import ms_deform_attn
from detrex_ext.layers.ms_deform_backends import Shapes, choose, load
from detrex_ext.runtime import peers

from .measure import Work

BATCH, HEADS, WIDTH, POINTS, STRIDES = 2, 8, 32, 4, (8, 16, 32, 64)
SAMPLING: dict[str, dict[str, Any]] = {
    "sampling, encoder, 320 px": {"side": 320},
    "sampling, encoder, 480 px": {"side": 480},
    "sampling, decoder, 480 px, 300 queries": {"side": 480, "queries": 300},
    "sampling, decoder, 480 px, 1800 queries": {"side": 480, "queries": 1800},
}
DENSE: dict[str, dict[str, Any]] = {
    "self-attention, 300 queries": {"queries": 300},
    "self-attention, 300 queries, dropout 0.1": {"queries": 300, "dropout": 0.1},
    "self-attention, 500 queries, mask": {"queries": 500, "masked": True},
    "cross-attention, 300 queries, 900 keys": {"queries": 300, "keys": 900},
}
DENSE_IMPLEMENTATIONS = ("fused", "map", "detrex_ext")


def samplers(device: str) -> list[str]:
    """Backends of deformable sampling that are compared: the reference, what the models use there, detrex's if any."""
    has_detrex = torch.device(device).type == "cuda" and peers.detrex_msda_op() is not None
    used = choose(torch.zeros(1, device=device))
    return list(dict.fromkeys(("torch", used, *(["detrex"] if has_detrex else []))))


def points(device: str, side: int, queries: int | None = None) -> tuple[list[Tensor], Shapes, Tensor]:
    """Inputs near each cell (an encoder) or near points anywhere (a decoder).

    Returns:
        Leaves value (B, S, H, D), locations (B, T, H, L, K, 2) and weights (B, T, H, L, K); the (height, width) of
        each level; an upstream gradient (B, T, H D).
    """
    shapes = tuple((-(-side // s),) * 2 for s in STRIDES)
    make = torch.Generator().manual_seed(0)
    centers = torch.cat([_centers(h) for h, _ in shapes]) if queries is None else torch.rand(queries, 2, generator=make)
    T, S, L = len(centers), sum(h * w for h, w in shapes), len(shapes)
    value = torch.randn(BATCH, S, HEADS, WIDTH, generator=make)
    cells = torch.tensor([h for h, _ in shapes])[:, None, None]
    at = centers[None, :, None, None, None] + 2 * torch.randn(BATCH, T, HEADS, L, POINTS, 2, generator=make) / cells
    weight = torch.rand(BATCH, T, HEADS, L, POINTS, generator=make)
    upstream = torch.randn(BATCH, T, HEADS * WIDTH, generator=make).to(device)
    return [x.to(device).requires_grad_() for x in (value, at, weight)], shapes, upstream


def sampling(impl: str, device: str, side: int, queries: int | None = None) -> Work:
    """Deformable sampling of :func:`points` by a backend."""
    inputs, shapes, upstream = points(device, side, queries)
    load(impl)
    return lambda: torch.autograd.grad(ms_deform_attn(inputs[0], shapes, *inputs[1:], impl), inputs, upstream)


def _centers(cells: int) -> Tensor:
    tick = (torch.arange(cells) + 0.5) / cells
    return torch.cartesian_prod(tick, tick).flip(-1)


def dense(
    impl: str, device: str, queries: int, keys: int | None = None, dropout: float = 0.0, masked: bool = False
) -> Work:
    """Dense attention by torch's fused kernel, by a map formed step by step, and by what the models use."""
    make = torch.Generator().manual_seed(0)
    sizes = (queries, keys or queries, keys or queries)
    inputs = [torch.randn(BATCH, HEADS, n, WIDTH, generator=make).to(device).requires_grad_() for n in sizes]
    mask = None
    if masked:
        mask = torch.rand(sizes[:2], generator=make).to(device) < 0.7
        mask.fill_diagonal_(True)

    def attend() -> Tensor:
        q, k, v = inputs
        if impl == "detrex_ext":
            return attention(q, k, v, mask, dropout)
        if impl == "fused":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        scores = q @ k.transpose(-1, -2) * WIDTH**-0.5
        scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        return F.dropout(scores.softmax(-1), dropout) @ v

    return lambda: torch.autograd.grad(attend().sum(), inputs)
