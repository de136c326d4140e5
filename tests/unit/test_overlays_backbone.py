"""The overlays that put another backbone into a host."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.analysis import summarize
from detrex_ext.config import find_config, load_config
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
    ],
    ids=["r101-deformable", "swin_t-detr", "convnext_t-small"],
)
def test_a_host_runs_on_another_backbone(overlay, config, overrides, maps):
    if overlay == "convnext_t":
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


def test_a_backbone_of_the_wrong_kind_of_neck_is_refused():
    cfg = load_config(find_config("small"))
    cfg.model.neck.pop("in_channels")
    with pytest.raises(UserError, match="model.neck has no in_channels"):
        swap_backbone(cfg, cfg.model.backbone, SWIN_T)
