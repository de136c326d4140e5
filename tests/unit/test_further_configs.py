"""Overlays and configs of hybrid and group queries, and DAC's: what they build, with which weights, and one step."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.config import find_config, load_config, shipped_configs
from detrex_ext.matching import GivenMatcher, HungarianMatcher, RepeatedMatcher
from detrex_ext.modeling.queries import DenoisingQueries, GroupQueries, HybridQueries
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch

SIZES = {"dim": 32, "out_channels": 32, "ffn_dim": 32, "num_layers": 3, "dropout": 0.0, "num_queries": 12, "number": 4}
HOSTS = ("deformable_detr_r50_50ep", "deformable_detr_plus_r50_12ep", "dino_r50_4scale_12ep", "dab_detr_r50_50ep",
         "adamixer_r50_12ep", "detr_r50_300ep")  # fmt: skip
CONFIGS = [name for name, file in shipped_configs().items() if file.parts[-3] in ("dac", "hybrid", "group")]


def narrow(name, *overlays, overrides=()):
    return load_config(find_config(name), [("tiny", SIZES), *overlays], ["model.num_classes=4", *overrides])


def wrapped(queries):
    return queries.source if isinstance(queries, DenoisingQueries) else queries


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_build_the_published_sizes(name):
    cfg = load_config(find_config(name), overrides=["model.num_classes=80"])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert name in cfg.train.output_dir
    source = wrapped(model.queries)
    if name.startswith("hybrid"):
        rule = model.rules["hybrid"]
        assert isinstance(source, HybridQueries) and source.num_extra == 1500
        assert isinstance(rule.matcher, RepeatedMatcher) and rule.matcher.times == 6
        assert isinstance(rule.matcher.matcher, HungarianMatcher)
        for term, host in zip(rule.terms.values(), model.rules["main"].terms.values(), strict=True):
            assert (term.weight, term.normalizer.factor) == (host.weight, 6)
    elif name.startswith("group"):
        assert isinstance(source, GroupQueries) and len(source.others) == 10
        assert isinstance(model.rules["group"].matcher, HungarianMatcher)
    else:
        assert "dac" in model.strategies and ("sqr" in model.strategies) == ("sqr" in name)
        assert ("dn" in model.rules) == ("cdn" in name or "dino" in name)
        assert model.postprocess.nms == (0.8 if "cdn" in name else None)


def test_recipes_of_dac():
    plain, ice, large, longer = (
        load_config(find_config(f"dac_cdn_{n}")) for n in ("r50_24ep", "ice_r50_24ep", "swin_l_12ep", "ice_swin_l_24ep")
    )
    assert [c.train.max_iter for c in (plain, ice, large, longer)] == [180000, 180000, 90000, 180000]
    assert plain.model.rules.main.terms["class"].weight == 2 and plain.model.strategies.dac.matcher.tau is None
    assert ice.model.rules.main.terms["class"].weight == 1 and ice.model.strategies.dac.matcher.tau == 1.5
    assert [c.model.backbone.drop_path for c in (large, longer)] == [0.2, 0.5]
    assert [c.optimizer.weight_decay for c in (large, longer)] == [1e-4, 0.05]
    assert large.model.backbone.checkpoint and large.model.neck == longer.model.neck
    assert load_config(find_config("dac_adamixer_r50_12ep")).model.strategies.dac.matcher.conflict == "best"


def test_published_recipes_of_hybrid_queries():
    plus, plain = (load_config(find_config(f"hybrid_deformable_{n}r50_12ep")).model for n in ("plus_", ""))
    assert [(m.queries.source.content, m.decoder.dropout, m.encoder.dropout) for m in (plus, plain)] == [
        ("mixed", 0.0, 0.0),
        ("projected", 0.1, 0.1),
    ]
    assert [m.decoder.look_forward_twice for m in (plus, plain)] == [True, False]
    assert plus.rules.main.terms["class"].weight == 2 and plus.postprocess.top_k == 100
    assert load_config(find_config("hybrid_deformable_plus_r50_36ep")).train.max_iter == 270000


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("overlay", ["hybrid", "group"])
def test_one_overlay_over_any_host(name, overlay):
    cfg = narrow(name, overlay)
    wrapper = cfg.model.queries if "label_noise_ratio" not in cfg.model.queries else cfg.model.queries.source
    wrapper["num_extra" if overlay == "hybrid" else "groups"] = 3
    model = instantiate(cfg.model).train()
    losses = model(example_batch(4, (2, 0)))
    assert {f"loss_{t}_{overlay}" for t in ("class", "bbox", "giou")} < set(losses)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.queries.parameters())
    found = model.eval()(example_batch(4, (2, 0)))
    assert len(found) == 2 and {s.group for s in model.forward_sets(example_batch(4, (2, 0)))} == {"main"}


def test_options_reach_the_source_and_its_rule():
    overrides = ["model.queries.num_extra=7", "model.rules.hybrid.times=2", "model.rules.hybrid.weight=0.5",
                 "model.rules.main.terms.class.weight=3"]  # fmt: skip
    model = instantiate(narrow("deformable_detr_plus_r50_12ep", "hybrid", overrides=overrides).model)
    rule = model.rules["hybrid"]
    assert (model.queries.num_extra, rule.matcher.times) == (7, 2)
    assert [t.weight for t in rule.terms.values()] == [1.5, 2.5, 1.0]
    assert model.queries.source.class_embed.out_features == 4
    overrides = ["model.rules.main.stage_weights=[0,1]", "model.rules.main.terms.class.weight=3"]
    model = instantiate(narrow("dab_detr_r50_50ep", ("group", {"groups": 4}), overrides=overrides).model)
    main, group = model.rules["main"], model.rules["group"]
    assert len(model.queries.others) == 3 and group.when == {"group": ("group",)}
    assert group.stage_weights == main.stage_weights == (0, 1)
    assert [t.weight for t in group.terms.values()] == [t.weight for t in main.terms.values()] == [3, 5, 2]


def test_beside_recollection_dac_and_denoising_only_main_is_taken_up():
    cfg = narrow("dino_r50_4scale_12ep", "hybrid", "sqr", "dac", overrides=["model.queries.source.num_extra=6"])
    model = instantiate(cfg.model).train()
    assert isinstance(model.queries, DenoisingQueries) and isinstance(model.rules["dn"].matcher, GivenMatcher)
    streams = {(s.group, s.path) for s in model.forward_sets(example_batch(4, (2, 0)))}
    assert streams == {("enc", "plain"), ("main", "plain"), ("main", "recollect"), ("main", "aux"), ("dn", "plain"),
                       ("dn", "aux"), ("hybrid", "plain")}  # fmt: skip
    assert sum(model(example_batch(4, (2, 0))).values()).isfinite()


@pytest.mark.parametrize("overlays", [("hybrid", "group"), ("group", "hybrid"), ("hybrid", "hybrid")])
def test_one_kind_of_further_queries_at_a_time(overlays):
    with pytest.raises(ValueError, match="choose one of hybrid and group"):
        instantiate(narrow("dab_detr_r50_50ep", *overlays).model)
