"""One key for each size of a model, and one message where a part differs or the classes are not known."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.config import LazyConfig, find_config, load_config, shipped_configs
from detrex_ext.engine.setup import build_model
from detrex_ext.errors import UserError
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch

HOSTS = ["small", "detr_r50_300ep", "dab_detr_r50_50ep", "deformable_detr_r50_50ep", "dino_r50_4scale_12ep",
         "adamixer_r50_12ep", "dac_cdn_ice_r50_12ep", "hybrid_dino_r50_4scale_12ep"]  # fmt: skip
PARTS = ["model.decoder.dim=64", "model.encoder.dim=64", "model.neck.out_channels=64"]


def on_meta(cfg):
    with torch.device("meta"):
        return instantiate(cfg.model)


@pytest.mark.parametrize("name", HOSTS)
def test_width_and_heads_of_any_host_are_two_keys(name):
    cfg = load_config(name, ["tiny"], ["model.num_classes=4", "model.dim=64", "model.num_heads=4"])
    model = instantiate(cfg.model).train()
    losses = model(example_batch(4))
    sum(losses.values()).backward()
    assert model.dim == model.decoder.dim == model.queries.dim == 64
    full = on_meta(load_config(name, (), ["model.num_classes=4", "model.dim=64", "model.num_heads=4"]))
    assert full.dim == full.neck.out_channels == 64


def test_levels_are_one_key():
    cfg = load_config("deformable_detr_r50_50ep", (), ["model.num_classes=4", "model.num_levels=5"])
    model = on_meta(cfg)
    assert model.num_levels == len(model.encoder.level_embeds) == 5
    for name in ("dino_r50_4scale_12ep", "deformable_detr_r50_50ep"):
        once = load_config(name, (), ["model.num_classes=4", "model.encoder.num_levels=5"])
        assert once.model.num_levels == 5 and on_meta(once).num_levels == 5, "as DINO's page once said"
    wide = ["model.neck.num_outs=5", "model.encoder.num_levels=5", "model.decoder.num_levels=5"]
    assert on_meta(load_config("dino_r50_4scale_12ep", (), ["model.num_classes=4", *wide])).num_levels == 5


@pytest.mark.parametrize("name", ["deformable_detr_r50_50ep", "dino_r50_4scale_12ep"])
def test_parts_that_agree_need_no_key_of_the_whole(name):
    sources = ["model.queries.dim=64"] + ["model.queries.source.dim=64"] * ("dino" in name)
    model = on_meta(load_config(name, (), ["model.num_classes=4", *PARTS, *sources]))
    assert model.dim == 64


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("deformable_detr_r50_50ep", "model.decoder.dim=64", "^model.decoder.dim=64, but model.dim=256: set model.dim"),
        ("detr_r50_300ep", "model.decoder.dim=64", r"^model\.decoder\.dim=64, but model\.dim=256: set model\.dim,"),
        ("dino_r50_4scale_12ep", "model.queries.source.dim=64", r"^model.queries.source.dim=64, but model.dim=256"),
        ("small", "model.neck.out_channels=64", r"^model\.neck\.out_channels=64, but model\.dim=128"),
        ("small", "model.decoder.num_levels=4", "^model.decoder.num_levels=4, but model.num_levels=3: set"),
        ("adamixer_r50_12ep", "model.queries.dim=64", r"^model\.queries\.dim=64, but model\.dim=256"),
    ],
)  # fmt: skip
def test_one_part_alone_is_one_message(name, change, message):
    cfg = load_config(name, (), ["model.num_classes=4", "train.device=cpu", change])
    with pytest.raises(UserError, match=message):
        on_meta(cfg)
    with pytest.raises(UserError, match=message):
        build_model(cfg)


def test_levels_that_the_neck_cannot_make_are_one_message():
    with pytest.raises(UserError, match=r"model\.neck\.num_levels=3, but model\.num_levels=4"):
        on_meta(load_config("small", (), ["model.num_classes=4", "model.num_levels=4"]))


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_a_model_that_is_built_without_data_says_what_it_needs(name):
    cfg = LazyConfig.load(find_config(name))
    with pytest.raises(UserError, match=r"^model\.num_classes is null: .*\n  cfg\.model\.num_classes = 80"), \
            torch.device("meta"):  # fmt: skip
        instantiate(cfg.model)
    cfg.model.num_classes = 80
    assert on_meta(cfg).num_classes == 80
