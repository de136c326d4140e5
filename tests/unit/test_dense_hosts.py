"""Parts of DETR and DAB-DETR that the comparison of whole models does not show."""

from __future__ import annotations

import math

import pytest
import torch

from detrex_ext.layers.position import sine_map
from detrex_ext.modeling.decoders import DABDecoder, DETRDecoder
from detrex_ext.modeling.encoders import DenseEncoder
from detrex_ext.modeling.queries import AnchorQueries, DenoisingQueries, PositionQueries
from detrex_ext.structures import Features


def memory(size=(3, 5), channels=8):
    features = Features.from_maps(
        [torch.randn(2, channels, *size)], torch.tensor([[96.0, 160.0], [64.0, 96.0]]), (96, 160)
    )
    return DenseEncoder(channels, 2, 8, 0.0, 1)(features)[0]


def test_first_predictions_are_the_anchors_at_a_prior_of_one_percent():
    torch.manual_seed(0)
    source, decoder = AnchorQueries(50, 8), DABDecoder(3, 8, 2, 8, num_layers=2)
    centers = source.anchor_box_embed.weight[:, :2]
    assert centers.abs().max() <= math.log(1e3) and 0.2 < centers.sigmoid().std() < 0.35  # uniform over the image
    mem = memory()
    sets = decoder.eval()(source(mem)[0], mem)
    anchors = source.anchor_box_embed.weight.sigmoid().clamp(1e-3, 1 - 1e-3)
    for s in sets:
        torch.testing.assert_close(s.boxes_BQ4, anchors.expand(2, -1, -1), atol=1e-5, rtol=0)
        assert 0.001 < s.logits_BQK.sigmoid().mean() < 0.1


def test_patterns_repeat_all_anchors_pattern_by_pattern():
    source = AnchorQueries(5, 8, num_patterns=3)
    q, _ = source(memory())
    assert torch.equal(q.content_BTC[1].view(3, 5, 8), source.patterns.weight[:, None].expand(3, 5, 8))
    assert torch.equal(q.ref_BT4[0].view(3, 5, 4), source.anchor_box_embed.weight.sigmoid().expand(3, 5, 4))


def test_codes_in_the_padding():
    """True padding takes the code of the edge; as detrex, an axis that has no valid cell there counts none."""
    pad = torch.ones(1, 4, 6, dtype=torch.bool)
    pad[:, :3, :2] = False
    edge, parity = (sine_map(pad, 4, 20.0, parity_padding=p)[0] for p in (False, True))
    torch.testing.assert_close(edge[:3, :2], parity[:3, :2])
    origin = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert torch.equal(parity[:, 2:, :4], origin.expand(4, 4, 4)) and torch.equal(parity[3, :, 4:], origin.expand(6, 4))
    torch.testing.assert_close(parity[3, :2, :4], edge[3, :2, :4])
    torch.testing.assert_close(edge[3, 5], torch.cat([edge[2, 0, :4], edge[0, 1, 4:]]))


def test_one_map_is_asked_for():
    maps = [torch.zeros(1, 8, n, n) for n in (4, 2)]
    with pytest.raises(ValueError, match="one map, got 2"):
        DenseEncoder(8, 2, 8)(Features.from_maps(maps, torch.tensor([[32.0, 32.0]]), (32, 32)))


def test_denoising_lies_over_anchors_and_not_over_positions():
    assert DenoisingQueries(AnchorQueries(5, 8), 3, 8).place(torch.rand(1, 2, 4), None)[1] == {}
    with pytest.raises(ValueError, match="PositionQueries cannot"):
        DenoisingQueries(PositionQueries(5, 8), 3, 8)


def test_detr_has_one_class_more():
    source, decoder, mem = PositionQueries(5, 8), DETRDecoder(3, 8, 2, 8, num_layers=1), memory()
    (s,) = decoder.eval()(source(mem)[0], mem)
    assert s.softmax and s.logits_BQK.shape == (2, 5, 4)
