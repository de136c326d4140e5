"""Dense attention is softmax(q k^T / sqrt(D)) v, whichever way it takes."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.layers.attention import MultiheadAttention, attention, key_mask
from detrex_ext.layers.cpu import switched
from detrex_ext.layers.dropout import dropout


@pytest.fixture(autouse=True)
def on():
    """Kernels, whatever the environment says."""
    with switched(True):
        yield


def by_hand(q, k, v, mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("kind", ["none", "bool", "additive", "learned"])
@pytest.mark.parametrize("value_width", [8, 5])
def test_equals_the_formula(kind, value_width):
    make = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, n, d, generator=make, dtype=torch.float64, requires_grad=True)
        for n, d in ((7, 8), (9, 8), (9, value_width))
    )
    mask, inputs = None, [q, k, v]
    if kind == "bool":
        mask = torch.rand(7, 9, generator=make) < 0.6
        mask[:, 0] = True
    elif kind != "none":
        mask = torch.randn(2, 1, 7, 9, generator=make, dtype=torch.float64).requires_grad_(kind == "learned")
        inputs += [mask] if kind == "learned" else []
    outs = [f(q, k, v, mask) for f in (attention, by_hand)]
    upstream = torch.randn(outs[0].shape, generator=make, dtype=torch.float64)
    torch.testing.assert_close(*outs)
    for one, other in zip(*(torch.autograd.grad(out, inputs, upstream) for out in outs), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_drops_weights_and_keeps_the_mask():
    torch.manual_seed(0)
    q = k = torch.zeros(1, 1, 200, 4)
    v = torch.eye(200)[None, None]  # the output is the map itself
    mask = torch.ones(200, 200, dtype=torch.bool).tril()
    seen = attention(q, k, v, mask, dropout=0.25)[0, 0]
    assert (seen[~mask] == 0).all()
    assert 0.23 < (seen[mask] == 0).float().mean() < 0.27
    torch.testing.assert_close(seen.sum(-1).mean(), torch.tensor(1.0), atol=0.05, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_dropped_attention_is_its_operators_one_by_one(kind, dtype):
    """The same random numbers, values and gradients as dropout(softmax(q k^T / sqrt(D))) v by torch's operators."""
    make = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, n, d, generator=make, dtype=torch.float64).to(dtype).requires_grad_()
        for n, d in ((7, 8), (9, 8), (9, 5))
    )
    mask = None
    if kind == "bool":
        mask = torch.rand(7, 9, generator=make) < 0.6
        mask[:, 0] = True
    elif kind == "additive":
        mask = torch.randn(2, 1, 7, 9, generator=make).to(dtype)
    upstream = torch.randn(2, 3, 7, 5, generator=make).to(dtype)

    def one_by_one():
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if kind == "bool" else scores + mask
        wide = scores.softmax(-1, dtype=torch.promote_types(dtype, torch.float32))
        return dropout(wide, 0.3).to(dtype) @ v

    found = []
    for f in (lambda: attention(q, k, v, mask, 0.3), one_by_one):
        torch.manual_seed(1)
        out = f()
        found.append((out, *torch.autograd.grad(out, (q, k, v), upstream)))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_dropped_attention_keeps_a_byte_for_each_probability():
    """No float map is kept: of (1, 2, 50, 60) entries only the mask of what was dropped."""
    q, k, v = (torch.randn(1, 2, n, 4, requires_grad=True) for n in (50, 60, 60))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attention(q, k, v, dropout=0.1)
    assert [x.dtype for x in kept if x.shape[-2:] == (50, 60)] == [torch.bool]


def test_autocast_multiplies_in_bf16():
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k, v, dropout=0.1)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32 and all(x.grad.isfinite().all() for x in (q, k, v))


def test_multihead_equals_torch():
    torch.manual_seed(0)
    layer = MultiheadAttention(16, 4)
    x, pos = torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    mask = torch.rand(6, 6) < 0.7
    mask.fill_diagonal_(True)
    want = x + layer.attn(x + pos, x + pos, x, attn_mask=~mask)[0]
    torch.testing.assert_close(layer(x, pos, mask), want)


def test_cross_attention_equals_torch():
    torch.manual_seed(0)
    layer = MultiheadAttention(16, 4)
    x, pos, memory, memory_pos = (torch.randn(2, n, 16) for n in (6, 6, 9, 9))
    pad = torch.arange(9) >= torch.tensor([[9], [5]])
    want = x + layer.attn(x + pos, memory + memory_pos, memory, key_padding_mask=pad)[0]
    kv = layer.project(memory, memory_pos)
    torch.testing.assert_close(layer.cross(x, pos, kv, key_mask(pad)), want)


def test_no_mask_where_nothing_is_padding():
    assert key_mask(None) is None and key_mask(torch.zeros(2, 3, dtype=torch.bool)) is None
    assert key_mask(torch.tensor([[False, True]])).tolist() == [[[[True, False]]]]
