from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detrex_ext.modeling.necks import PAFPN, ChannelMapper


def _features(channels, size=(37, 50)):
    torch.manual_seed(0)
    out = {}
    for i, c in enumerate(channels):
        out[f"res{3 + i}"] = torch.randn(2, c, *(-(-n // 2**i) for n in size))
    return out


def test_channel_mapper_levels_and_keys():
    features = _features((8, 16, 24))
    neck = ChannelMapper({"res3": 8, "res4": 16, "res5": 24}, out_channels=64, num_outs=5)
    levels = neck(features)
    assert [tuple(x.shape[1:]) for x in levels] == [(64, 37, 50), (64, 19, 25), (64, 10, 13), (64, 5, 7), (64, 3, 4)]
    keys = set(neck.state_dict())
    assert {"convs.0.conv.weight", "convs.0.conv.bias", "convs.2.norm.weight", "extra_convs.1.norm.bias"} <= keys
    assert len(keys) == 5 * 4
    assert neck.extra_convs[0].conv.weight.shape == (64, 24, 3, 3)
    assert all((c.conv.bias == 0).all() for c in neck.convs)


def test_channel_mapper_extra_level_reads_the_raw_last_input():
    neck = ChannelMapper({"res3": 8, "res4": 16}, out_channels=32, num_outs=4)
    features = _features((8, 16))
    levels = neck(features)
    for level, source, part in ((levels[2], features["res4"], 0), (levels[3], levels[2], 1)):
        conv, norm = neck.extra_convs[part].conv, neck.extra_convs[part].norm
        want = F.group_norm(F.conv2d(source, conv.weight, conv.bias, 2, 1), 32, norm.weight, norm.bias, 1e-5)
        assert torch.equal(level, want)


def test_channel_mapper_selects_inputs_by_name():
    neck = ChannelMapper({"res4": 16}, out_channels=32)
    features = _features((8, 16, 24))
    assert len(neck(features)) == 1
    assert torch.equal(neck(features)[0], neck({"res4": features["res4"]})[0])
    with pytest.raises(ValueError, match="num_outs"):
        ChannelMapper({"res3": 8, "res4": 16}, num_outs=1)


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (9, 5)])
def test_pafpn_keeps_the_size_of_every_level(size):
    features = _features((8, 16, 24), size)
    levels = PAFPN({"res3": 8, "res4": 16, "res5": 24}, out_channels=12)(features)
    assert [x.shape for x in levels] == [(2, 12, *f.shape[-2:]) for f in features.values()]


def test_pafpn_every_output_depends_on_every_input():
    features = {k: v.requires_grad_() for k, v in _features((4, 4, 4), (16, 16)).items()}
    neck = PAFPN({"res3": 4, "res4": 4, "res5": 4}, out_channels=8)
    for level in neck(features):
        grads = torch.autograd.grad(level.square().sum(), features.values(), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in grads)


def test_pafpn_leaves_its_inputs_unchanged():
    features = _features((4, 4))
    copies = {k: v.clone() for k, v in features.items()}
    PAFPN({"res3": 4, "res4": 4}, out_channels=8, norm=None)(features)
    assert all(torch.equal(features[k], copies[k]) for k in features)
