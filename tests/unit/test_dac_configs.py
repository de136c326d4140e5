"""The configs and overlays of divide and conquer: what is supervised by what, with which weight."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.config import find_config, load_config, parts
from detrex_ext.criterion import AlignedLoss, FocalLoss, QualityFocalLoss, VarifocalLoss
from detrex_ext.errors import UserError
from detrex_ext.matching import (
    GivenMatcher,
    HungarianMatcher,
    L1Cost,
    OneToManyMatcher,
    RepeatedMatcher,
    TopKMatcher,
)
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch


def rules_of(name, *overlays, overrides=()):
    """{(group, path): rule} of a config's model, without building the model."""
    cfg = load_config(find_config(name), list(overlays), list(overrides))
    host = instantiate(cfg.model.rules)
    return {
        **{(g, "plain"): r for g, r in host.items()},
        **{
            (r.when["group"][0], r.when["path"][0]): r
            for s in instantiate(cfg.model.strategies).values()
            for r in s.rules(host)
        },
    }, cfg


def weights(rule):
    return [t.weight for t in rule.terms.values()]


def test_the_overlay_lies_over_any_host_and_takes_overrides():
    for name in ("dab_detr_r50_50ep", "deformable_detr_r50_50ep", "adamixer_r50_12ep", "detr_r50_300ep"):
        rules, _ = rules_of(name, "sqr", "dac", overrides=["model.strategies.dac.matcher.k=4"])
        assert rules.keys() == {("main", "plain"), ("main", "aux")}
        assert rules["main", "aux"].matcher.k == 4 and weights(rules["main", "aux"]) == weights(rules["main", "plain"])


@pytest.mark.parametrize("names", [("dac_cdn_ice_r50_12ep",), ("dino_r50_4scale_12ep", "dac", "ice")])
def test_iou_aware_classification_is_for_all_streams_but_the_encoders(names):
    rules, _ = rules_of(*names)
    streams = {("main", "plain"), ("main", "aux"), ("dn", "plain"), ("dn", "aux"), ("enc", "plain")}
    assert rules.keys() == streams
    for stream in streams - {("enc", "plain")}:
        assert isinstance(rules[stream].terms["class"].loss, AlignedLoss) and weights(rules[stream]) == [1, 5, 2]
    assert isinstance(rules["enc", "plain"].terms["class"].loss, FocalLoss)
    matcher = rules["main", "aux"].matcher
    assert isinstance(matcher, OneToManyMatcher)
    assert (matcher.k, matcher.threshold, matcher.cap, matcher.tau) == (6, 0.4, 75, 1.5)
    assert isinstance(rules["main", "plain"].matcher, HungarianMatcher)
    assert isinstance(rules["dn", "aux"].matcher, GivenMatcher)
    assert {t.normalizer.factor for t in rules["main", "aux"].terms.values()} == {3.0}


def test_the_released_recipe():
    rules, cfg = rules_of("dac_cdn_ice_r50_12ep")
    assert weights(rules["enc", "plain"]) == [2, 5, 2] and rules["enc", "plain"].objectness
    assert (cfg.model.queries.source.num_queries, cfg.model.queries.box_noise_scale) == (900, 0.4)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.max_iter) == (2e-4, 1e-4, 90000)
    assert cfg.model.encoder.dropout == 0 and cfg.model.encoder.ffn_dim == 2048


def test_the_plain_rows_keep_the_hosts_losses():
    for name, dropout, content in (("deformable", 0.1, "projected"), ("deformable_plus", 0.0, "mixed")):
        rules, cfg = rules_of(f"dac_{name}_r50_12ep")
        assert weights(rules["main", "aux"]) == weights(rules["main", "plain"]) == [2, 5, 2]
        assert (cfg.model.decoder.dropout, cfg.model.queries.content) == (dropout, content)
        assert rules["main", "aux"].matcher.tau is None
    assert weights(rules_of("dac_dino_r50_12ep")[0]["dn", "aux"]) == [1, 5, 2]


def losses_of(name, *overlays, matcher=None, loss=None):
    """Losses of one batch of a config's model, made narrow."""
    sizes = {"dim": 32, "out_channels": 32, "ffn_dim": 32, "num_layers": 2, "dropout": 0.0, "num_queries": 12}
    cfg = load_config(find_config(name), [("tiny", {**sizes, "number": 4}), *overlays], ["model.num_classes=4"])
    if matcher is not None:
        cfg.model.rules.main.matcher = matcher
    if loss is not None:
        cfg.model.rules.main.terms["class"].loss = loss
    torch.manual_seed(0)
    losses = instantiate(cfg.model).train()(example_batch(4, (2, 0)))
    sum(losses.values()).backward()
    return losses


def test_the_released_recipe_trains():
    streams = {"", "_aux", "_dn", "_dn_aux", "_enc"}
    assert losses_of("dac_cdn_ice_r50_12ep").keys() == {
        f"loss_{t}{stream}" for t in ("class", "bbox", "giou") for stream in streams
    }


@pytest.mark.parametrize(
    "matcher",
    [
        L(OneToManyMatcher)(threshold=0.0),
        L(TopKMatcher)(k=3),
        L(TopKMatcher)(k=3, costs=[L(L1Cost)()]),
        L(RepeatedMatcher)(matcher=L(HungarianMatcher)(), times=3),
    ],
)
def test_a_host_may_be_trained_one_to_many(matcher):
    """By one line of its config."""
    usual, many = (losses_of("dab_detr_r50_50ep", matcher=m) for m in (None, matcher))
    assert usual.keys() == many.keys() and many["loss_giou"] > 1.5 * usual["loss_giou"]


@pytest.mark.parametrize("loss", [L(VarifocalLoss)(), L(QualityFocalLoss)(beta=2.0)])
def test_other_classification_is_one_line(loss):
    usual, other = (losses_of("dab_detr_r50_50ep", "dac", loss=x) for x in (None, loss))
    assert usual.keys() == other.keys() and other["loss_class_aux"].isfinite()
    assert usual["loss_class"] != other["loss_class"] and usual["loss_bbox"] == other["loss_bbox"]


def test_twins_of_recollected_sets_are_an_option():
    rules, cfg = rules_of("adamixer_r50_12ep", "sqr", "dac", overrides=["model.strategies.dac.recollected=true"])
    assert list(parts(cfg.model.strategies)) == ["sqr", "dac"] and instantiate(cfg.model.strategies.dac).recollected
    assert rules.keys() == {("main", "plain"), ("main", "aux")}


def test_overlays_refuse_hosts_that_they_do_not_fit():
    with pytest.raises(UserError, match="deta needs a two-stage host"):
        rules_of("dab_detr_r50_50ep", "deta")
    with pytest.raises(ValueError, match="AlignedLoss is for a sigmoid per class"):
        losses_of("detr_r50_300ep", "ice")


@pytest.mark.parametrize("name, overlay", [("dino_r50_4scale_12ep", "deta"), ("adamixer_r50_12ep", "one_to_many")])
def test_overlays_of_one_to_many_training(name, overlay):
    rules, cfg = rules_of(name, overlay, overrides=["model.rules.main.matcher.k=2", "dataloader.evaluator.nms=0.9"])
    assert rules["main", "plain"].matcher.k == 2 and 0 < instantiate(cfg.model.postprocess).nms < 1
    assert rules.keys() == rules_of(name)[0].keys()
    if overlay == "deta":
        enc, main = (rules[group, "plain"].matcher for group in ("enc", "main"))
        assert (enc.threshold, enc.cap, enc.boxes, main.threshold, main.cap) == (0.7, 128, "prior", 0.6, 0.25)
    assert all(x.isfinite() for x in losses_of(name, overlay).values())
