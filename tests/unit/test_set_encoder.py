"""The encoder over a set of tokens, the positions of its tokens, and the pyramid they come from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from detrex_ext.layers.position import sine_boxes, sine_cells, sine_map
from detrex_ext.layers.set_encoder import SetEncoder
from detrex_ext.modeling.backbones.blocks import make_norm
from detrex_ext.modeling.necks import FPN


def small(**options):
    torch.manual_seed(0)
    encoder = SetEncoder(**{"dim": 16, "num_heads": 2, "ffn_dim": 24, "dropout": 0.0, "num_layers": 2, **options})
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return encoder.double()


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_published_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in SetEncoder().parameters()) == 18_915_328


def test_is_torchs_pre_norm_encoder():
    """Without positions it is nn.TransformerEncoder with norm_first."""
    ours = small()
    layer = torch.nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True, norm_first=True)
    theirs = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(16), enable_nested_tensor=False).double()
    names = {"self_attn": "attentions.0.attn", "linear1": "ffns.0.layers.0.0", "linear2": "ffns.0.layers.1"}
    names |= {"norm1": "norms.0", "norm2": "norms.1"}
    state = ours.state_dict()
    for key in theirs.state_dict():
        parts = key.split(".")
        name = key if parts[0] == "norm" else ".".join([*parts[:2], names[parts[2]], *parts[3:]])
        theirs.get_parameter(key).data.copy_(state.pop(name))
    assert not state
    x = tokens(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_positions_go_to_queries_and_keys_of_every_layer_alone():
    encoder, x, pos = small(), tokens(1, 4, 16), tokens(2, 4, 16)[1:]
    assert not torch.allclose(encoder(x), encoder(x, pos))
    with torch.no_grad():
        for layer in encoder.layers:
            layer.attentions[0].attn.in_proj_weight[:32] = 0  # all attend to all alike, whatever the position
    torch.testing.assert_close(encoder(x), encoder(x, pos), rtol=0, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_fused_attention_equals_the_formula(padded):
    x, pos = tokens(3, 7, 16), tokens(3, 7, 16).flip(1)
    pad = torch.arange(7) >= torch.tensor([[7], [5], [1]]) if padded else None
    found = []
    for attention in ("sdpa", "math"):
        encoder, into = small(attention=attention), x.clone().requires_grad_()
        out = encoder(into, pos, pad)
        if padded:
            out = out[~pad]
        out.square().sum().backward()
        found.append((out, into.grad, encoder.layers[0].attentions[0].attn.in_proj_weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_padded_slots_change_nothing_and_stay_finite():
    encoder, x, pos = small(), tokens(2, 6, 16), tokens(2, 6, 16)
    pad = torch.zeros(2, 6, dtype=torch.bool)
    pad[0, 4:] = pad[1] = True
    out = encoder(x.requires_grad_(), pos, pad)
    torch.testing.assert_close(out[0, :4], encoder(x[:1, :4], pos[:1, :4])[0], rtol=0, atol=1e-12)
    out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    changed = x.detach().clone()
    changed[0, 4:] = 1e6
    torch.testing.assert_close(encoder(changed, pos, pad)[0, :4], out[0, :4], rtol=0, atol=1e-12)


def test_knows_no_order_of_the_tokens():
    encoder, x, pos = small(), tokens(1, 9, 16), tokens(2, 9, 16)[1:]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(encoder(x[:, order], pos[:, order]), encoder(x, pos)[:, order], rtol=0, atol=1e-12)


def test_trains_with_dropout_and_recomputed():
    """Nothing that a gradient needs is overwritten; layers computed again draw the same dropout."""
    found = []
    for checkpoint in (False, True):
        encoder = small(dropout=0.3, checkpoint=checkpoint).train()
        torch.manual_seed(5)
        encoder(tokens(2, 5, 16)).square().sum().backward()
        found.append([p.grad for p in encoder.parameters()])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in found[0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention must be one of sdpa, math, got 'flash'"):
        SetEncoder(attention="flash")


def test_closed_form_equals_the_cumulative_one():
    """At every cell, inside and outside the valid area, of maps of all shapes."""
    make = torch.Generator().manual_seed(0)
    for _ in range(40):
        h, w = torch.randint(1, 40, (2,), generator=make).tolist()
        rows, columns = (int(torch.randint(1, n + 1, (), generator=make)) for n in (h, w))
        pad = (torch.arange(h)[:, None] >= rows) | (torch.arange(w) >= columns)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cell = torch.stack([x, y], -1).reshape(1, -1, 2)
        code = sine_cells(cell, torch.tensor([[[float(columns), float(rows)]]]), 8)
        known = sine_map(pad[None], 8, parity_padding=True).reshape(1, -1, 16)
        torch.testing.assert_close(code, known, rtol=0, atol=1e-6)


def test_code_of_eight_coordinates():
    coordinates = torch.tensor([[[0.5, 0.25, 0.5, 0.3, 0.25, 0.1, 0.75, 0.4]]])
    code = sine_boxes(coordinates, 64, order=tuple(range(8)))
    assert code.shape == (1, 1, 512)
    angle = 0.25 * 2 * math.pi
    assert code[0, 0, 64] == pytest.approx(math.sin(angle), abs=1e-6)
    assert code[0, 0, 64 + 5] == pytest.approx(math.cos(angle / 10000 ** (4 / 64)), abs=1e-6)


def test_pyramid_levels():
    torch.manual_seed(0)
    neck = FPN({"res3": 8, "res4": 16, "res5": 24}, 32, 5, norm="FrozenBN").double()
    for level in neck.extra_blocks.levels:
        torch.nn.init.uniform_(level.norm.weight)
    inputs = (("res3", 8, 8), ("res4", 16, 16), ("res5", 24, 32))
    features = {name: tokens(2, c, 64 // stride, 96 // stride) for name, c, stride in inputs}
    levels = neck(features)
    assert [tuple(x.shape[1:]) for x in levels] == [(32, 8, 12), (32, 4, 6), (32, 2, 3), (32, 1, 2), (32, 1, 1)]

    def conv(name, i, x, pad=0):
        return F.conv2d(x, neck.get_parameter(f"{name}.{i}.0.weight"), neck.get_parameter(f"{name}.{i}.0.bias"), 1, pad)

    inner = [conv("inner_blocks", i, x) for i, x in enumerate(features.values())]
    inner[1] = inner[1] + F.interpolate(inner[2], scale_factor=2, mode="nearest")
    inner[0] = inner[0] + F.interpolate(inner[1], scale_factor=2, mode="nearest")
    for i in range(3):
        torch.testing.assert_close(levels[i], conv("layer_blocks", i, inner[i], 1), rtol=0, atol=1e-12)
    for level, source, part in ((levels[3], levels[2], 0), (levels[4], levels[3].relu(), 1)):
        extra = neck.extra_blocks.levels[part]
        want = F.conv2d(source, extra.conv.weight, extra.conv.bias, 2, 1)
        torch.testing.assert_close(level, extra.norm(want), rtol=0, atol=1e-12)
    assert levels[3].min() < 0 and levels[4].min() < 0


def test_pyramid_without_further_levels():
    neck = FPN({"res4": 16}, 8)
    assert neck.num_levels == 1 and len(neck({"res4": torch.randn(1, 16, 4, 4), "res5": None})) == 1
    with pytest.raises(ValueError, match="num_outs 1 is less than the 2 inputs"):
        FPN({"res3": 8, "res4": 16}, num_outs=1)


def test_one_cell_has_no_statistics_of_its_own():
    norm = make_norm("SyncBN", 3).double()
    norm(torch.full((1, 3, 1, 1), 5.0, dtype=torch.float64)).sum().backward()
    assert torch.equal(norm.running_mean, torch.zeros(3).double()) and norm.weight.grad.isfinite().all()
    norm(tokens(2, 3, 1, 1))
    assert norm.running_mean.abs().min() > 0
