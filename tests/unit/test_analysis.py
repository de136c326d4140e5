"""The model summary against numbers counted by hand and against what a real pass does."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from detrex_ext.analysis import summarize
from detrex_ext.analysis.costs import Costs, shapes_only
from detrex_ext.cli import run
from detrex_ext.cli.analyze import main
from detrex_ext.config import find_config, load_config
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference
from detrex_ext.layers.attention import MultiheadAttention
from detrex_ext.layers.ms_deform_attn import ms_deform_attn
from detrex_ext.modeling.backbones import ConvNorm
from detrex_ext.modeling.backbones.blocks import DeformConvNorm

NARROW = [
    "model.backbone.stem=[4,8]",
    "model.backbone.widths=[8,8,8,8]",
    "model.neck.in_channels={res3: 8, res4: 8, res5: 8}",
]


def cost_of(function, *inputs):
    with torch.no_grad(), shapes_only(), Costs() as costs:
        function(*inputs)
    return costs


def conv(x):
    return ConvNorm(3, 4, 3, 2, norm=None)(x)


def deform(x):
    return DeformConvNorm(4, 6, 3, norm=None, groups=2)(x, torch.zeros(1, 18, 5, 7))


def attend(x):
    return MultiheadAttention(8, 2)(x)


def sample(value):
    return ms_deform_attn(value, [(4, 5), (2, 3)], torch.rand(2, 7, 2, 2, 3, 2), torch.rand(2, 7, 2, 2, 3))


@pytest.mark.parametrize(
    ("function", "shape", "flops"),
    [
        (conv, (1, 3, 10, 12), 2 * (5 * 6) * 4 * (3 * 9)),
        (deform, (1, 4, 5, 7), (5 * 7) * 9 * 4 * 8 + 2 * (5 * 7) * 6 * (2 * 9)),
        (attend, (2, 5, 8), 2 * (2 * 5 * 8 * 24 + 2 * (2 * 5 * 5 * 8) + 2 * 5 * 8 * 8)),
        (sample, (2, 26, 2, 4), 8 * (2 * 7) * (2 * 4) * (2 * 3)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_operations_counted_by_hand(function, shape, flops, monkeypatch):
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")
    assert cost_of(function, torch.zeros(shape)).flops == flops


def test_memory_is_that_of_tensors_in_use_at_once():
    def work(x):  # 4 KiB each: y and z live together, then only w
        y = x + 1
        z = y * y
        del y
        return z[:2] + z[2:]

    assert cost_of(work, torch.zeros(4, 256)).peak == 2 * 4096


@pytest.fixture(scope="module")
def narrow():
    return build_for_inference(load_config(find_config("small"), overrides=NARROW), 3, frozen=False)


def test_a_pass_on_shapes_costs_what_a_real_pass_costs(narrow, monkeypatch):
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")
    state = {k: v.clone() for k, v in narrow.state_dict().items()}
    summary = summarize(narrow, 70, 100, batch=2)
    with torch.no_grad(), Costs() as costs:
        narrow.core(torch.zeros(2, 3, 70, 100), torch.tensor([[70.0, 100.0]] * 2))
    assert summary.gflops * 1e9 == pytest.approx(costs.flops)
    assert summary.peak_mib * 2**20 == pytest.approx(costs.peak, rel=0.02)
    assert sum(part.gflops for part in summary.parts) == pytest.approx(summary.gflops)
    assert max(part.peak_mib for part in summary.parts) <= summary.peak_mib
    assert all(torch.equal(v, state[k]) for k, v in narrow.state_dict().items())
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in narrow.modules())


def test_the_flow_is_told_with_shapes(narrow):
    summary = summarize(narrow.train(), 64, 96, batch=2)
    assert narrow.training
    flow = {part.name: part.output for part in summary.parts}
    assert flow["backbone"] == ["res3 2x8x8x12", "res4 2x8x4x6", "res5 2x8x2x3"]
    assert flow["neck"] == ["2x128x8x12", "2x128x4x6", "2x128x2x3"]
    assert flow["encoder"] == ["tokens 2x126x128"]
    assert flow["queries"] == ["queries 2x60x128 (60 main)"]
    assert flow["decoder"] == ["3 x main logits 2x60x3"]
    assert "-> neck: 2x128x8x12, 2x128x4x6" in summary.text()


def test_published_counts():
    model = build_for_inference(load_config(find_config("deformable_detr_r50_50ep")), 80, frozen=False)
    summary = summarize(model, 224, 224)
    assert (summary.parameters, summary.trainable, summary.buffers) == (40_066_838, 40_057_430, 106_240)
    assert sum(part.parameters for part in summary.parts) == summary.parameters
    backbone = summary.parts[0]
    assert (backbone.parameters, backbone.trainable) == (23_454_912, 23_445_504)
    # ResNet-50 takes 4.09e9 multiplications and additions on 224x224 pixels, its classifier 2e6 of them
    assert backbone.gflops == pytest.approx(2 * (4.09 - 0.002), rel=0.005)


# all parameters, those that are trained and buffers of the originals at 80 classes, counted from their state dicts
COUNTS = {
    "detr_r50_300ep": (41_521_941, 41_512_533, 106_240),
    "dab_detr_r50_50ep": (43_668_690, 43_659_282, 106_240),
    "dab_detr_r50_3patterns_50ep": (43_669_458, 43_660_050, 106_240),
    "dab_detr_r50_dc5_50ep": (43_668_690, 43_446_290, 106_240),
    "deformable_detr_r50_box_refine_50ep": (40_832_698, 40_823_290, 106_240),
    "deformable_detr_r50_two_stage_50ep": (41_161_740, 41_152_332, 106_240),
    "dino_r50_4scale_12ep": (47_650_316, 47_640_908, 106_240),
    "dino_r50_5scale_12ep": (48_012_940, 48_003_532, 106_240),
    "tsp_fcos_r50_3x": (51_458_922, 51_236_522, 107_266),
    "tsp_rcnn_r50_3x": (56_695_678, 56_473_278, 117_526),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_every_published_count(name):
    summary = summarize(build_for_inference(load_config(find_config(name)), 80, frozen=False), 64, 96)
    assert (summary.parameters, summary.trainable, summary.buffers) == COUNTS[name]


def test_work_that_depends_on_values_is_counted_by_doing_it():
    """A proposal network leaves as many regions as its values say; twice the images, twice the products."""
    cfg = load_config(find_config("tsp_rcnn_r50_3x"), ["tiny"])
    model = build_for_inference(cfg, 4, frozen=False).train()
    one, two = (summarize(model, 64, 96, batch) for batch in (1, 2))
    assert one.of_values and "depends on the number of proposals" in one.text() and model.training
    assert [part.gflops * 2 for part in one.parts] == pytest.approx([part.gflops for part in two.parts])
    assert all(part.gflops > 0 for part in one.parts if part.name != "queries")


def test_command(capsys):
    assert run(main, ["model", "small", "--size", "64x96", "--json", "-", "--batch", "2", *NARROW]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch"] == 2 and [part["name"] for part in found["parts"]][0] == "backbone"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "800"], "HEIGHTxWIDTH"),
        (["--size", "0x96"], "HEIGHTxWIDTH"),
        (["--batch", "0"], "1 or more"),
        (["model.bakbone.stem=[4,8]"], "bakbone"),
        (["--overlay", "sqrt"], "sqr"),
    ],
)
def test_bad_input_is_one_message(arguments, message, capsys):
    assert run(main, ["model", "small", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_other_parts_is_refused():
    with pytest.raises(UserError, match="no neck, encoder, queries, decoder"):
        summarize(nn.ModuleDict({"backbone": nn.Linear(2, 2)}))
