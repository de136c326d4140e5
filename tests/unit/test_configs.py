"""The shipped configs: one set of classes under different numbers, published sizes, and what overrides reach."""

from __future__ import annotations

import pytest

from detrex_ext.config import find_config, load_config, shipped_configs
from detrex_ext.engine.setup import build_model
from detrex_ext.errors import UserError
from detrex_ext.runtime import instantiate

# parameters of the originals at 80 classes (all, trainable), counted from their state dicts
PUBLISHED = {
    "deformable_detr_r50_50ep": (40_066_838, 40_057_430),
    "deformable_detr_r50_box_refine_50ep": (40_832_698, 40_823_290),
    "deformable_detr_r50_two_stage_50ep": (41_161_740, 41_152_332),
    "detr_r50_300ep": (41_521_941, 41_512_533),
    "dab_detr_r50_50ep": (43_668_690, 43_659_282),
    "dab_detr_r50_3patterns_50ep": (43_669_458, 43_660_050),
    "dab_detr_r50_dc5_50ep": (43_668_690, 43_446_290),
    "dino_r50_4scale_12ep": (47_650_316, 47_640_908),
    "dino_r50_5scale_12ep": (48_012_940, 48_003_532),
    "tsp_fcos_r50_3x": (51_458_922, 51_236_522),
}


def model_of(name, *overrides, classes=80):
    return instantiate(load_config(find_config(name), overrides=[f"model.num_classes={classes}", *overrides]).model)


@pytest.fixture(scope="module")
def small():
    return model_of("small", classes=3)


@pytest.fixture(scope="module")
def two_stage():
    return model_of("deformable_detr_r50_two_stage_50ep")


def test_small_and_published_models_are_the_same_classes(small, two_stage):
    for part in ("preprocess", "decoder", "postprocess", "criterion"):
        assert type(getattr(small, part)) is type(getattr(two_stage, part)), part
    assert type(small) is type(two_stage)
    # the small one denoises over the very source of the published one
    assert type(small.queries.source) is type(two_stage.queries)
    for a, b in zip(small.criterion.rules, two_stage.criterion.rules, strict=False):
        assert type(a.matcher) is type(b.matcher) and a.terms.keys() == b.terms.keys()
        assert [type(t.loss) for t in a.terms.values()] == [type(t.loss) for t in b.terms.values()]


def test_small_and_published_recipes_are_the_same_machinery():
    small, published = (load_config(find_config(n)) for n in ("small", "deformable_detr_r50_50ep"))
    for path in ("dataloader.train", "dataloader.train.mapper", "dataloader.test", "dataloader.evaluator", "optimizer"):
        a, b = small, published
        for key in path.split("."):
            a, b = a[key], b[key]
        assert a._target_ == b._target_, path


def test_size_of_the_small_model(small):
    assert 2.8e6 < sum(p.numel() for p in small.parameters()) < 2.9e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    parameters = list(model_of(name).parameters())
    found = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_loads_and_says_what_a_trainer_needs(name):
    cfg = load_config(find_config(name))
    assert {"model", "optimizer", "lr_multiplier", "train", "dataset", "dataloader"} <= set(cfg)
    assert cfg.model.num_classes is None
    assert cfg.train.output_dir.startswith("./output/")


def test_published_hyper_parameters():
    cfg = load_config(find_config("deformable_detr_r50_two_stage_50ep"))
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.max_iter) == (1e-4, 1e-4, 375000)
    assert cfg.train.clip_grad.enabled and cfg.train.clip_grad.params.max_norm == 0.1
    assert cfg.dataloader.train.total_batch_size == 16 and cfg.model.decoder.refine
    factor = instantiate(cfg.optimizer.params.lr_factor_func)
    assert factor("backbone.res3.0.conv1.weight") == 0.1 and factor("decoder.layers.0.norms.0.weight") == 1.0
    schedule = instantiate(cfg.lr_multiplier)
    assert [schedule(i / 50) for i in (0, 39.9, 40.1, 50)] == pytest.approx([1, 1, 0.1, 0.1])


def test_published_hyper_parameters_of_dino():
    cfg, longer, better = (
        load_config(find_config(f"dino_r50_4scale_{n}")) for n in ("12ep", "36ep", "12ep_better_hyper")
    )
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.max_iter) == (1e-4, 1e-4, 90000)
    assert cfg.optimizer.params.weight_decay_norm == 0 and cfg.model.queries.source.num_queries == 900
    assert (longer.train.max_iter, longer.model.encoder.temperature, longer.model.encoder.offset) == (270000, 20, 0)
    assert not longer.dataloader.train.dataset.filter_empty and cfg.dataloader.train.dataset.filter_empty
    schedule = instantiate(longer.lr_multiplier)
    assert [schedule(i / 36) for i in (29.9, 30.1)] == pytest.approx([1, 0.1])
    rules = model_of("dino_r50_4scale_12ep_better_hyper").rules
    assert {group: [t.weight for t in rule.terms.values()] for group, rule in rules.items()} == {
        "main": [2, 5, 2], "enc": [2, 5, 2], "dn": [1, 5, 2],
    }  # fmt: skip
    assert (better.model.queries.number, better.model.backbone.freeze_at) == (300, 0)


def test_one_override_reaches_every_class_head_and_rule():
    model = model_of("small", "model.rules.main.terms.class.weight=3.5", classes=7)
    assert {r.terms["class"].weight for r in model.criterion.rules} == {3.5}
    heads = [*model.decoder.class_embed, model.queries.source.class_embed]
    assert {head.out_features for head in heads} == {7}
    assert model.queries.label_enc.num_embeddings == 7


def test_the_recipe_of_deformable_sqr_is_the_published_one():
    """mmdetection's ``frozen_stages=1`` is the stem and res2."""
    cfg = load_config("deformable_detr_r50_50ep_sqr", overrides=["model.num_classes=80", "model.encoder.num_layers=1"])
    model = instantiate(cfg.model)
    frozen = {name.split(".")[1] for name, p in model.backbone.named_parameters("backbone") if not p.requires_grad}
    assert frozen == {"stem", "res2"}
    rule, loader = model.rules["main"], cfg.dataloader.train
    assert {name: term.weight for name, term in rule.terms.items()} == {"class": 2, "bbox": 5, "giou": 2}
    assert (loader.total_batch_size, loader.dataset.filter_empty, model.postprocess.top_k) == (32, False, 100)
    slow = instantiate(cfg.optimizer.params.lr_factor_func)
    names = [name for name, _ in model.named_parameters()]
    assert {name.split(".")[0] for name in names if slow(name) == 0.1} == {"backbone", "encoder", "queries", "decoder"}
    assert slow("decoder.layers.0.attentions.1.sampling_offsets.bias") == slow("queries.reference_points.weight") == 0.1
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.params.weight_decay_norm) == (2e-4, 1e-4, None)


@pytest.mark.parametrize("name", ["small", "deformable_detr_r50_50ep", "deformable_detr_r50_two_stage_50ep"])
def test_the_sqr_overlay_lies_over_any_host(name):
    cfg = load_config(
        find_config(name), overlays=["sqr"], overrides=["model.strategies.sqr.window=3", "model.num_classes=3"]
    )
    strategy = instantiate(cfg.model).strategies["sqr"]
    assert (strategy.window, strategy.start_stage) == (3, 1)


@pytest.mark.parametrize(
    "option, message",
    [
        ("model.strategies.sqr.start_stage=3", "start_stage=3: nothing is recollected, the last stage is 2"),
        ("model.strategies.dac.first_stage=3", "first_stage=3: no auxiliary set is supervised, the last stage is 2"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused_before_training(option, message):
    cfg = load_config("quickstart", ["sqr", "dac"], ["model.num_classes=3", "train.device=cpu", option])
    with pytest.raises(UserError, match=f"model cannot be built: {message}"):
        build_model(cfg)
