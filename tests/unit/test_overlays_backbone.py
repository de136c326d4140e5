"""The overlays that put another backbone into a host."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext.analysis import summarize
from detrex_ext.checkpoint import load_weights, resolve
from detrex_ext.config import find_config, load_config
from detrex_ext.engine import build_optimizer, slow_down
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference
from detrex_ext.modeling.backbones import swap_backbone
from detrex_ext.runtime import instantiate

SHALLOW = ["model.encoder.num_layers=1", "model.decoder.num_layers=1"]
SWIN_T = {"res2": 96, "res3": 192, "res4": 384, "res5": 768}


@pytest.mark.parametrize(
    ("overlay", "config", "overrides", "maps"),
    [
        ("r101", "deformable_detr_r50_50ep", SHALLOW, ["res3 1x512x8x12", "res4 1x1024x4x6", "res5 1x2048x2x3"]),
        ("swin_t", "detr_r50_300ep", SHALLOW, ["res5 1x768x2x3"]),
        (
            "convnext_t",
            "small",
            ["model.decoder.num_layers=1"],
            ["res3 1x192x8x12", "res4 1x384x4x6", "res5 1x768x2x3"],
        ),
        ("lite0", "small", ["model.decoder.num_layers=1"], ["res3 1x40x8x12", "res4 1x112x4x6", "res5 1x320x2x3"]),
        (
            "lite0",
            "adamixer_r50_12ep",
            ["model.decoder.num_layers=1"],
            ["res2 1x24x16x24", "res3 1x40x8x12", "res4 1x112x4x6", "res5 1x320x2x3"],
        ),
        ("lite0", "dab_detr_r50_50ep", SHALLOW, ["res5 1x320x2x3"]),
        (
            "mobilenet_v2",
            "small",
            ["model.decoder.num_layers=1"],
            ["res3 1x32x8x12", "res4 1x96x4x6", "res5 1x320x2x3"],
        ),
        ("mobilenet_v2", "detr_r50_300ep", SHALLOW, ["res5 1x320x2x3"]),
        ("mobilenet_v2", "dino_r50_4scale_12ep", SHALLOW, ["res3 1x32x8x12", "res4 1x96x4x6", "res5 1x320x2x3"]),
    ],
)
def test_a_host_runs_on_another_backbone(overlay, config, overrides, maps):
    if overlay in ("convnext_t", "lite0"):
        pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    model = build_for_inference(load_config(find_config(config), [overlay], overrides), 3)
    summary = summarize(model, 64, 96)
    assert summary.parts[0].output == maps
    assert summary.parts[-1].output[0].startswith("main logits 1x")


@pytest.mark.parametrize("config", ["deformable_detr_r50_50ep", "dino_r50_5scale_12ep", "adamixer_r50_12ep", "small"])
def test_the_large_swin_is_the_published_one_and_fits_the_neck(config):
    cfg = load_config(find_config(config), ["swin_l"])
    with torch.device("meta"):
        backbone = instantiate(cfg.model.backbone)
        neck = instantiate(cfg.model.neck)
    assert {k: s.channels for k, s in backbone.output_shape().items()} == dict(cfg.model.neck.in_channels)
    assert list(neck.in_features) == list(backbone.output_shape())
    assert 194e6 < sum(p.numel() for p in backbone.parameters()) < 196e6


@pytest.mark.parametrize(
    ("name", "host", "checkpoint"),
    [
        ("dino_swin_large_384_4scale_12ep", "dino_r50_4scale_12ep", False),
        ("dac_cdn_swin_l_12ep", "dac_cdn_r50_12ep", True),
        ("dac_cdn_ice_swin_l_12ep", "dac_cdn_ice_r50_12ep", True),
    ],
)
def test_projects_with_the_large_swin_are_their_host_under_the_overlay(name, host, checkpoint):
    own = load_config(find_config(name))
    laid = load_config(find_config(host), [("swin_l", {"checkpoint": checkpoint})])
    assert own.model == laid.model and own.train.init_checkpoint == laid.train.init_checkpoint == ""


def test_the_deeper_resnet_keeps_what_the_host_says():
    cfg = load_config(find_config("adamixer_r50_12ep"), ["r101"], ["model.backbone.freeze_at=1"])
    assert dict(cfg.model.backbone, _target_=None) == {
        "_target_": None,
        "depth": 101,
        "freeze_at": 1,
        "norm": "EvalBN",
        "out_features": ["res2", "res3", "res4", "res5"],
    }
    assert load_config(find_config("small"), ["r101"]).model.backbone.out_features == ["res3", "res4", "res5"]


SMALL = {
    "lite0": ("pypi:efficientnet-lite0", [127.5] * 3, [127.5] * 3),
    "mobilenet_v2": ("pypi:mobilenetv2", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
}


@pytest.mark.parametrize("overlay", list(SMALL))
def test_small_backbones_come_with_all_that_their_weights_ask_for(overlay):
    cfg = load_config(find_config("small"), [overlay])
    found = cfg.train.init_checkpoint, cfg.model.preprocess.pixel_mean, cfg.model.preprocess.pixel_std
    assert found == SMALL[overlay] and cfg.model.backbone.freeze_at == 2
    rate = instantiate(cfg.optimizer.params.lr_factor_func)
    assert (rate("backbone.x.weight"), rate("decoder.x.weight")) == (0.2, 1.0)


@pytest.mark.parametrize("overlay", list(SMALL))
def test_a_hosts_own_learning_rates_stay(overlay):
    own = {"backbone": 0.1, "sampling_offsets": 0.1}
    assert load_config("deformable_detr_plus_r50_12ep", [overlay]).optimizer.params.lr_factor_func.factors == own


def test_the_learning_rates_reach_the_parameters():
    cfg = load_config("small", ["mobilenet_v2"], ["model.num_classes=2"])
    model = instantiate(cfg.model)
    rates = {id(p): group["lr"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        assert (id(p) in rates) == p.requires_grad
        if p.requires_grad:
            assert rates[id(p)] == pytest.approx(cfg.optimizer.lr * (0.2 if name.startswith("backbone.") else 1))
    assert not model.backbone.features[3].conv[2].weight.requires_grad


def test_a_factor_is_added_to_those_there_are():
    cfg = OmegaConf.create({"optimizer": {"lr": 0.1, "params": {}}})
    slow_down(cfg, "backbone", 0.2)
    slow_down(cfg, "backbone", 0.3)
    slow_down(cfg, "neck", 0.5)
    assert cfg.optimizer.params.base_lr == 0.1
    assert cfg.optimizer.params.lr_factor_func.factors == {"backbone": 0.2, "neck": 0.5}
    cfg.optimizer.params.lr_factor_func = {"_target_": "somebodys.rule"}
    slow_down(cfg, "backbone", 0.2)
    assert cfg.optimizer.params.lr_factor_func == {"_target_": "somebodys.rule"}


@pytest.mark.parametrize(
    ("overlay", "tensors"), [("lite0", 288), ("mobilenet_v2", 306)], ids=["lite0", "mobilenet_v2"]
)
def test_the_weights_of_the_installed_package_match_whole(overlay, tensors):
    cfg = load_config("small", [overlay], ["model.num_classes=2"])
    try:
        resolve(cfg.train.init_checkpoint)
    except UserError as error:
        pytest.skip(str(error).splitlines()[0])
    if overlay == "lite0":
        pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    report = load_weights(instantiate(cfg.model), cfg.train.init_checkpoint, strict=False)
    assert report.complete and len(report.matched) == report.total == tensors


def test_a_backbone_of_the_wrong_kind_of_neck_is_refused():
    cfg = load_config(find_config("small"))
    cfg.model.neck.pop("in_channels")
    with pytest.raises(UserError, match="model.neck has no in_channels"):
        swap_backbone(cfg, cfg.model.backbone, SWIN_T)
