"""Layers over blocks of rows on a CPU: torch's values and gradients, and nothing hidden is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detrex_ext.layers.adaptive_mixing import AdaptiveMixing
from detrex_ext.layers.cpu import blockwise as blocks
from detrex_ext.layers.cpu import mixing, switched
from detrex_ext.layers.mlp import FFN, MLP

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4, torch.bfloat16: 5e-2}


@pytest.fixture(autouse=True)
def on():
    """Kernels, whatever the environment says."""
    with switched(True):
        yield


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 8 rows, from 16 rows on; the last one is not full."""
    monkeypatch.setattr(blocks, "ROWS", 8)
    monkeypatch.setattr(blocks, "LEAST", 16)
    monkeypatch.setattr(mixing, "ROWS", 8)
    monkeypatch.setattr(mixing, "LEAST", 16)


def both_ways(monkeypatch, work, given):
    """(values, gradients) by blocks and at once."""
    found = []
    for least in (1, 10**9):
        monkeypatch.setattr(blocks, "LEAST", least)
        monkeypatch.setattr(mixing, "LEAST", least)
        out = work()
        upstream = torch.rand(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        found.append((out, *torch.autograd.grad(out, given, upstream)))
    return zip(*found, strict=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("kind", ["mlp", "relu", "prelu", "mixing"])
def test_blocks_give_what_all_rows_at_once_give(small_blocks, monkeypatch, kind, dtype):
    torch.manual_seed(0)
    modules = {
        "mlp": lambda: MLP(6, 10, 3, 3),
        "relu": lambda: FFN(6, 20),
        "prelu": lambda: FFN(6, 20, activation=nn.PReLU()),
        "mixing": lambda: AdaptiveMixing(8, 2, 3, 5),
    }
    net = modules[kind]().to(dtype)
    with torch.no_grad():  # a fresh generator makes the same matrices of every query
        for p in net.parameters():
            p.add_(torch.randn_like(p) / 4)
    given = [torch.randn(2, 19, 8 if kind == "mixing" else 6, dtype=dtype, requires_grad=True)]
    if kind == "mixing":
        given.insert(0, torch.randn(2, 19, 3, 2, 4, dtype=dtype).transpose(2, 3).requires_grad_())
    for a, b in both_ways(monkeypatch, lambda: net(*given), [*given, *net.parameters()]):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * b.abs().max().item())


def test_a_chain_of_layers_is_its_formula(small_blocks):
    make = torch.Generator().manual_seed(0)
    shapes = ((3, 9, 4), (1,), (7, 4), (7,), (2, 7), (2,))
    x, slope, *rest = (torch.randn(s, generator=make, dtype=torch.float64).requires_grad_() for s in shapes)
    layers = [tuple(rest[:2]), tuple(rest[2:])]
    expected = F.linear(F.prelu(F.linear(x, *layers[0]), slope), *layers[1])
    torch.testing.assert_close(blocks.blockwise(x, layers, slope), expected)
    assert torch.autograd.gradcheck(lambda *t: blocks.blockwise(t[0], [t[2:4], t[4:]], t[1]), (x, slope, *rest))


def test_nothing_hidden_is_kept_and_few_rows_are_left_alone(small_blocks):
    layer, kept = FFN(4, 64), []

    def widest(rows):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            layer(torch.randn(rows, 4, requires_grad=True))
        return max(kept)

    assert widest(15) == 15 * 64
    assert widest(100) == 100 * 4


def test_a_frozen_input_and_inference(small_blocks):
    net, x = MLP(4, 8, 2, 2), torch.randn(20, 4)
    net(x).sum().backward()
    expected = net.layers[1](net.layers[0](x).relu())
    assert net.layers[0].weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)


def test_autocast_computes_in_bf16_and_gradients_are_the_parameters(small_blocks, monkeypatch):
    net, x = AdaptiveMixing(8, 2, 3, 5), torch.randn(2, 19, 2, 3, 4)
    query = torch.randn(2, 19, 8)

    def work():
        with torch.autocast("cpu", torch.bfloat16):
            return net(x, query)

    for a, b in both_ways(monkeypatch, work, list(net.parameters())):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.05 * b.abs().max().item())
    assert work().dtype == torch.bfloat16
