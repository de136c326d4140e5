"""Deformable sampling of random points, and the comparison of a backend with grid_sample."""

from __future__ import annotations

import torch

from detrex_ext.layers.ms_deform_attn import ms_deform_attn

SHAPES = {
    "square": ((8, 8), (4, 4), (2, 2), (1, 1)),
    "odd": ((5, 11), (3, 6), (7, 2)),
    "grows": ((1, 1), (1, 9), (9, 1), (6, 12)),
    "one": ((3, 4),),
}


def case(shapes, B=2, T=13, H=2, D=8, K=3, dtype=torch.float64, spread=0.4, seed=0):
    make = torch.Generator().manual_seed(seed)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    value = torch.randn(B, S, H, D, dtype=dtype, generator=make)
    # a good part of the points lies outside the maps, some far away
    at = 0.5 + spread * torch.randn(B, T, H, L, K, 2, dtype=dtype, generator=make)
    if T:
        at[:, :2] = 40 * at[:, :2]
    weight = torch.randn(B, T, H, L, K, dtype=dtype, generator=make)
    return [x.requires_grad_() for x in (value, at, weight)]


def outcome(backend, shapes, inputs, seed=1):
    value, at, weight = inputs
    out = ms_deform_attn(value, shapes, at, weight, backend)
    upstream = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(seed))
    return [out, *torch.autograd.grad(out, inputs, upstream.to(out.device))]


def assert_same(backend, shapes, inputs, tolerance):
    expected = outcome("torch", shapes, inputs)
    computed = outcome(backend, shapes, inputs)
    for name, want, got in zip(("out", "value", "at", "weight"), expected, computed, strict=True):
        scale = want.abs().max().clamp(min=1e-3) if want.numel() else 1.0
        assert got.shape == want.shape and got.dtype == want.dtype, name
        assert not want.numel() or (got - want).abs().max() <= tolerance * scale, name


def not_a_number_stays_where_it_is(backend):
    value, at, weight = (x.detach() for x in case(SHAPES["odd"]))
    at[0, 3, 1, 0, 0, 0] = float("nan")
    at[1, 4, 0, 0, 0, 1] = float("inf")
    at[1, 5, 0, 0, 0] = 1e30
    out = ms_deform_attn(value, SHAPES["odd"], at, weight, backend).view(2, 13, 2, 8)
    assert out[0, 3, 1].isnan().all()
    out[0, 3, 1] = 0
    assert out.isfinite().all()
