"""AdaMixer's parts against their formulas, its published sizes and recipes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detrex_ext.config import load_config
from detrex_ext.layers.adaptive_mixing import AdaptiveMixing
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, box_iof_pairwise
from detrex_ext.layers.sampling_3d import level_weights, sample_3d
from detrex_ext.layers.xyzr import boxes_to_xyzr, refine_xyzr, xyzr_to_boxes
from detrex_ext.modeling.decoders import AdaMixerDecoder
from detrex_ext.modeling.encoders.flatten import to_memory
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.queries import WholeImageQueries
from detrex_ext.runtime import instantiate
from detrex_ext.structures import Features, Slot

STRIDES = (4, 8, 16, 32)
SHAPES = ((9, 13), (5, 7), (3, 4), (2, 2))


def test_boxes_there_and_back():
    boxes = torch.tensor([[400.0, 300.0, 100.0, 400.0], [5.0, 6.0, 1e-2, 900.0]], dtype=torch.float64)
    xyzr = boxes_to_xyzr(boxes)
    assert xyzr[0].tolist() == pytest.approx([400, 300, 0.5 * torch.tensor(4e4).log2().item(), 2.0])
    torch.testing.assert_close(xyzr_to_boxes(xyzr), boxes)
    whole = boxes_to_xyzr(torch.tensor([1333.0 / 2, 400.0, 1333.0, 800.0]))
    assert float(whole[2]) == pytest.approx(10.01, abs=0.005)


def test_center_moves_by_scale_not_by_sides():
    xyzr = boxes_to_xyzr(torch.tensor([50.0, 60.0, 4.0, 64.0]))  # scale 16
    moved = xyzr_to_boxes(refine_xyzr(xyzr, torch.tensor([0.5, -0.5, 1.0, 0.0])))
    torch.testing.assert_close(moved, torch.tensor([58.0, 52.0, 8.0, 128.0]))


def test_share_is_of_the_row():
    boxes = box_cxcywh_to_xyxy(torch.tensor([[5.0, 5.0, 10.0, 10.0], [5.0, 5.0, 2.0, 4.0], [50.0, 50.0, 0.0, 0.0]]))
    share = box_iof_pairwise(boxes, boxes)
    torch.testing.assert_close(share, torch.tensor([[1.0, 0.08, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_level_weights():
    found = level_weights(torch.tensor([9.0, 7.0, 5.0, 3.0]), STRIDES)
    expected = [
        [0, 0, 0.011, 0.989],
        [0, 0.002, 0.076, 0.922],
        [0.006, 0.077, 0.346, 0.571],
        [0.258, 0.426, 0.258, 0.058],
    ]
    torch.testing.assert_close(found, torch.tensor(expected), atol=6e-4, rtol=0)


def by_levels(value_BSGC, points_BTGP3):
    """``sample_3d`` level by level on maps."""
    B, T, G, P, _ = points_BTGP3.shape
    C, total = value_BSGC.shape[-1], 0
    weight = level_weights(points_BTGP3[..., 2], STRIDES)
    for level, part in enumerate(value_BSGC.split([h * w for h, w in SHAPES], 1)):
        h, w = SHAPES[level]
        maps = part.permute(0, 2, 3, 1).reshape(B * G, C, h, w)
        size = points_BTGP3.new_tensor([w, h]) * STRIDES[level]
        grid = (points_BTGP3[..., :2] / size * 2 - 1).transpose(1, 2).reshape(B * G, T, P, 2)
        sampled = F.grid_sample(maps, grid, align_corners=False).view(B, G, C, T, P)
        total = total + sampled.permute(0, 3, 1, 4, 2) * weight[..., level, None]
    return total


@pytest.mark.parametrize("backend", ["torch", "cpu", "gather"])
@pytest.mark.parametrize("tokens", [5, 0])
def test_one_gather_equals_maps(backend, tokens):
    torch.manual_seed(0)
    value = torch.randn(2, sum(h * w for h, w in SHAPES), 2, 8, dtype=torch.float64, requires_grad=True)
    points = torch.randn(2, tokens, 2, 3, 3, dtype=torch.float64) * torch.tensor([40.0, 30.0, 2.0])
    points = (points + torch.tensor([26.0, 18.0, 4.0])).requires_grad_()
    a, b = sample_3d(value, SHAPES, STRIDES, points, backend), by_levels(value, points)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(b)
    for x, y in zip(*(torch.autograd.grad(o, (value, points), upstream) for o in (a, b)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


def test_mixing_under_autocast_keeps_its_largest_tensors_in_half_precision():
    mixing, kept = AdaptiveMixing(16, 2, 3, 5), []
    nn_init = torch.randn(2, 4, 2, 3, 8), torch.randn(2, 4, 16)
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        out = mixing(*nn_init)
    assert out.shape == (2, 4, 16) and out.dtype == torch.bfloat16
    large = [t for t in kept if t.numel() >= 2 * 4 * 2 * 5 * 8 and t.shape[0] == 2]
    assert large and all(t.dtype == torch.bfloat16 for t in large)


def test_one_norm_for_all_levels():
    torch.manual_seed(0)
    neck = ChannelMapper({"res4": 8, "res5": 16}, 64, shared_norm=True)
    torch.nn.init.normal_(neck.norm.weight)
    maps = {"res4": torch.randn(2, 8, 6, 5), "res5": torch.randn(2, 16, 3, 3)}
    assert {k for k in neck.state_dict() if "norm" in k} == {"norm.weight", "norm.bias"}
    for level, conv, x in zip(neck(maps), neck.convs, maps.values(), strict=True):
        raw = F.conv2d(x, conv.conv.weight, conv.conv.bias)
        torch.testing.assert_close(level, F.group_norm(raw, 32, neck.norm.weight, neck.norm.bias))


def narrow(**options):
    """A decoder, and queries and memory for it: two images, the second one smaller than the batch."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 32, 64 // s, 96 // s) for s in STRIDES]
    mem = to_memory(Features.from_maps(maps, torch.tensor([[64.0, 96.0], [48.0, 40.0]]), (64, 96)))
    decoder = AdaMixerDecoder(4, 32, 2, 2, 3, 4, 32, 3, **options)
    return decoder, WholeImageQueries(5, 32), mem


def test_every_query_starts_as_the_whole_image():
    decoder, source, mem = narrow()
    q, _ = source(mem)
    expected = torch.tensor([[48.0, 32.0, 96.0, 64.0], [20.0, 24.0, 40.0, 48.0]])
    torch.testing.assert_close(xyzr_to_boxes(q.ref_BT4), expected[:, None].expand(-1, 5, -1))
    torch.testing.assert_close(q.content_BTC.var(-1, correction=0), torch.ones(2, 5), rtol=1e-3, atol=0)
    assert all((tower[-1].bias.sigmoid() - 0.01).abs().max() < 1e-6 for tower in decoder.class_embed)
    for s in decoder(q, mem):
        torch.testing.assert_close(s.boxes_BQ4, torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(2, 5, 4))


def test_boxes_place_as_queries_and_come_back():
    _, source, mem = narrow()
    boxes = torch.rand(2, 7, 4) * 0.5 + 0.1
    ref, extra = source.place(boxes, mem)
    wh = mem.image_hw_B2.flip(1).repeat(1, 2)[:, None]
    torch.testing.assert_close(xyzr_to_boxes(ref) / wh, boxes)
    assert extra == {}


def test_references_carry_no_gradient_between_stages():
    decoder, source, mem = narrow()
    for tower in decoder.bbox_embed:
        torch.nn.init.normal_(tower[-1].weight)
    q, _ = source(mem)
    last = decoder(q, mem)[-1].boxes_BQ4.sum()
    grads = torch.autograd.grad(last, [t[-1].weight for t in decoder.bbox_embed], allow_unused=True)
    assert grads[0] is None and grads[1] is None and float(grads[2].abs().max()) > 0


def test_position_reaches_queries_without_self_attention():
    decoder, source, mem = narrow()
    q, _ = source(mem)
    alone = q.replace(slots=(Slot(5, domain=None),))
    x = decoder.self_attend(0, decoder.condition(0, alone, mem))
    expected = decoder.layers[0].norms[0](q.content_BTC + x.extra["_pos"])
    torch.testing.assert_close(x.content_BTC, expected)


def test_a_mask_of_the_domain_holds_beside_the_bias():
    decoder, source, mem = narrow()
    q, _ = source(mem)
    torch.nn.init.normal_(decoder.layers[0].attentions[0].attn.in_proj_weight)
    mask = torch.eye(5, dtype=torch.bool)
    masked = decoder.self_attend(0, decoder.condition(0, q.replace(masks={0: mask}), mem)).content_BTC
    ones = torch.cat([decoder.self_attend(0, decoder.condition(0, part, mem)).content_BTC for part in singles(q)], 1)
    torch.testing.assert_close(masked, ones)


def singles(q):
    for i in range(5):
        yield q.replace(content_BTC=q.content_BTC[:, i : i + 1], ref_BT4=q.ref_BT4[:, i : i + 1], slots=(Slot(1),))


def test_levels_must_be_named():
    decoder, source, mem = narrow(strides=(4, 8, 16))
    with pytest.raises(ValueError, match="4 levels"):
        decoder(source(mem)[0], mem)


# all parameters, counted from the official models without their constant first boxes
PUBLISHED = {
    "adamixer_r50_12ep": 134_790_504,
    "adamixer_r50_300q_36ep": 134_841_704,
    "adamixer_r101_300q_36ep": 153_833_832,
    "adamixer_x101_dcn_300q_36ep": 156_034_180,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    with torch.device("meta"):
        model = instantiate(load_config(name, overrides=["model.num_classes=80"]).model)

    def size(*modules):
        return sum(p.numel() for m in modules for p in m.parameters())

    decoder = model.decoder
    stages = zip(decoder.layers, decoder.class_embed, decoder.bbox_embed, strict=True)
    assert [size(*stage) for stage in stages] == [18_378_716] * 6
    assert size(model.neck) == 984_576
    assert size(model) == PUBLISHED[name]


def test_published_recipes():
    short, long = (load_config(n) for n in ("adamixer_r50_12ep", "adamixer_r50_300q_36ep"))
    assert short.optimizer.lr == long.optimizer.lr == 2.5e-5
    schedules = [(short, 12, (8, 11)), (long, 36, (24, 33))]
    for cfg, epochs, (first, second) in schedules:
        assert cfg.train.max_iter == epochs * 7330
        factor = instantiate(cfg.lr_multiplier)
        at = [250 / cfg.train.max_iter, *(x / epochs for x in (first - 0.1, first + 0.1, second + 0.1))]
        assert [factor(t) for t in at] == pytest.approx([0.5005, 1, 0.1, 0.01])
    assert short.model.queries.num_queries == short.model.postprocess.top_k == 100
    assert long.model.queries.num_queries == long.model.postprocess.top_k == 300
    assert short.dataloader.train.mapper.augmentation_with_crop is None
    assert long.dataloader.train.mapper.augmentation_with_crop[1].max_size == 1333
    assert load_config("adamixer_r101_300q_36ep").model.backbone.depth == 101


def test_one_learning_rate_and_weight_decay():
    cfg = load_config("adamixer_r50_12ep", overrides=["model.num_classes=3", "model.decoder.num_layers=1"])
    with torch.device("meta"):
        cfg.optimizer.params.model = instantiate(cfg.model)
    (group,) = instantiate(cfg.optimizer.params)
    assert group.keys() == {"params", "lr"} and group["lr"] == 2.5e-5 and cfg.optimizer.weight_decay == 1e-4
