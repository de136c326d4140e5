"""Convolutions with a stride over maps of one column, in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrex_ext.layers.strided import StridedConv
from detrex_ext.modeling.backbones.blocks import ConvNorm
from detrex_ext.modeling.necks.channel_mapper import _Level as Mapped
from detrex_ext.modeling.necks.fpn import _Level as Pyramid

MADE = {
    "alone": lambda: StridedConv(32, 32, 3, 2, 1),
    "backbone": lambda: ConvNorm(32, 32, 3, 2, norm=None),
    "mapper": lambda: Mapped(32, 32, 3, 2, None),
    "pyramid": lambda: Pyramid(32, None),
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@pytest.mark.parametrize("hw", [(1, 1), (2, 1), (5, 1), (1, 5), (3, 3)])
def test_gradients_in_half_precision_are_near_whatever_the_map(made, hw):
    torch.manual_seed(0)
    for _ in range(5):
        left = [torch.full((size,), torch.nan) for size in (4608, 9216, 18432)]
        del left  # what a kernel does not write is this
        conv, x = made(), torch.randn(2, 32, *hw)
        with torch.autocast("cpu", torch.bfloat16):
            half = conv(x)
        up = torch.randn_like(half)
        half.backward(up)
        weight = next(p for p in conv.parameters() if p.ndim == 4)
        found, weight.grad = weight.grad, None
        whole = conv(x)
        whole.backward(up.float())
        assert half.shape == whole.shape
        assert (found - weight.grad).abs().max() < 0.05 * weight.grad.abs().max()


def test_it_is_a_convolution_where_nothing_is_to_be_avoided():
    conv, x = StridedConv(8, 8, 3, 2, 1), torch.randn(2, 8, 5, 1)
    plain = nn.Conv2d(8, 8, 3, 2, 1)
    plain.load_state_dict(conv.state_dict())
    assert torch.equal(conv(x), plain(x))
