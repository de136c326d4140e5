"""Dropout: its probability, its scale, its gradient, and that it follows torch's seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrex_ext.layers.cpu import dropout as module
from detrex_ext.layers.cpu import switched
from detrex_ext.layers.cpu.dropout import relu_dropout
from detrex_ext.layers.dropout import Dropout, dropout
from detrex_ext.layers.mlp import FFN

N = 600_001  # several pieces, and not a whole number of them


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(module, "THREADS", 10_000)
    with switched(True):
        yield


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("function", [dropout, relu_dropout])
def test_probability_scale_and_expectation(p, function):
    out = function(torch.ones(N), p)
    kept = out[out > 0]
    assert (out >= 0).all() and kept.unique().numel() == 1
    assert kept[0] == pytest.approx(1 / (1 - p), rel=1e-3)
    # six standard deviations of a binomial count
    assert abs(kept.numel() / N - (1 - p)) < 6 * (p * (1 - p) / N) ** 0.5
    assert abs(out.mean() - 1) < 6 * (p / (1 - p) / N) ** 0.5


def test_elements_are_dropped_independently():
    """Neighbors, which share the bits of one draw, are no more alike than any others."""
    gone = (dropout(torch.ones(N), 0.5) == 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, module.PIECE):
        assert abs((gone[:-lag] * gone[lag:]).mean() / 0.25) < 6 / (N - lag) ** 0.5


def test_the_smallest_probability_is_exact():
    assert (dropout(torch.ones(1000), 1 / 65536 / 4) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradient(dtype, inplace):
    leaf = torch.randn(7, 33, dtype=dtype).abs().add(0.1).requires_grad_()
    x = leaf * 1
    out = dropout(x, 0.3, inplace=inplace)
    upstream = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, leaf, upstream)
    scale = out / leaf.detach()
    assert (out.data_ptr() == x.data_ptr()) is inplace
    rtol = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(grad, upstream * scale.detach(), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_relu_gradient(dtype):
    leaf = torch.randn(7, 33, dtype=dtype).requires_grad_()
    out = relu_dropout(leaf * 1, 0.3)
    assert (out[leaf <= 0] == 0).all() and (out[leaf > 0] == 0).any() and (out > 0).any()
    (grad,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
    torch.testing.assert_close(grad, (out > 0).to(dtype) / 0.7, rtol=1e-2, atol=0.0)


def test_seed_repeats_and_evaluation_is_the_identity():
    x = torch.randn(50, 50)
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(dropout(x, 0.4))
    assert torch.equal(*outs) and not torch.equal(outs[0], dropout(x, 0.4))
    assert dropout(x, 0.4, training=False) is x and dropout(x, 0.0) is x
    assert torch.equal(Dropout(0.4).eval()(x), x)


def test_strided_and_empty_inputs():
    x = torch.ones(40, 30).t()
    out = dropout(x, 0.5, inplace=True)
    assert out.shape == x.shape and (out == 0).any() and (x == 1).all()
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
    assert (dropout(torch.ones(9), 1.0) == 0).all()


def test_relu_dropout_keeps_one_tensor():
    kept = []

    def pack(t):
        kept.append(t)
        return t

    x = torch.randn(64, 64, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = relu_dropout(x, 0.1)
    assert [t.data_ptr() for t in kept] == [out.data_ptr()]


def test_ffn_drops_both_times():
    ffn = FFN(8, 16, dropout=0.5).train()
    nn.init.ones_(ffn.layers[0][0].weight)
    nn.init.ones_(ffn.layers[1].weight)
    x = torch.ones(4000, 8)
    change = ffn(x) - x
    dropped = (change == 0).float().mean()
    assert 0.48 < dropped < 0.52
    kept = change[change != 0] / 2
    expected = 16 * 8  # sum over the hidden units, in expectation
    assert abs(kept.mean() / expected - 1) < 0.05 and kept.std() > 1
    assert torch.equal(ffn.eval()(x), ffn(x))
