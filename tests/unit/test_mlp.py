"""The feed-forward block with PReLU: torch's values and gradients, half of the memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detrex_ext.layers.cpu import switched
from detrex_ext.layers.cpu.prelu import prelu_linear
from detrex_ext.layers.mlp import FFN


@pytest.fixture(autouse=True)
def on():
    """Kernels, whatever the environment says."""
    with switched(True):
        yield


def inputs(dtype):
    make = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 8), (1,), (3, 8), (3,))
    return [torch.randn(s, generator=make, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_prelu_linear_is_torchs(dtype):
    x, slope, weight, bias = given = inputs(dtype)
    expected = F.linear(F.prelu(x, slope), weight, bias)
    found = prelu_linear(*given)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(expected)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5 if dtype == torch.float32 else 3e-2
    for a, b in zip(*(torch.autograd.grad(out, given, upstream) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_gradcheck():
    assert torch.autograd.gradcheck(prelu_linear, inputs(torch.float64))


def test_autocast_is_bf16_and_gradients_are_the_parameters():
    layer, x = FFN(8, 16, activation=nn.PReLU()), torch.randn(2, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().square().sum().backward()
    reference = FFN(8, 16, activation=nn.PReLU())
    reference.load_state_dict(layer.state_dict())
    hidden = reference.activation(reference.layers[0][0](x))
    (x + reference.layers[1](hidden)).square().sum().backward()
    for a, b in zip(layer.parameters(), reference.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        torch.testing.assert_close(a.grad, b.grad, rtol=0.1, atol=0.1)


def test_the_wide_activation_is_kept_once():
    layer, kept = FFN(8, 64, activation=nn.PReLU()), set()
    own = {p.data_ptr() for p in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add((x.data_ptr(), x.numel())) or x, lambda x: x):
        layer(torch.randn(2, 5, 8, requires_grad=True))
    assert sum(size == 2 * 5 * 64 for at, size in kept if at not in own) == 1
