"""The overlays of losses and costs: over every host, beside each other and the strategies, or refused with a reason."""

from __future__ import annotations

import copy

import pytest
import torch

from detrex_ext.config import apply_overlay, find_config, load_config
from detrex_ext.criterion import FocalLoss, GIoUAwareLoss, MatchabilityLoss, PositionLoss
from detrex_ext.errors import UserError
from detrex_ext.matching import (
    GivenMatcher,
    HighOrderCost,
    HungarianMatcher,
    LateMatcher,
    PositionClassCost,
    RepeatedMatcher,
)
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch

HOSTS = ["deformable_detr_r50_50ep", "deformable_detr_plus_r50_12ep", "dino_r50_4scale_12ep", "dab_detr_r50_50ep",
         "adamixer_r50_12ep", "quickstart"]  # fmt: skip
LOSSES = {"mal": MatchabilityLoss, "stable": PositionLoss, "high_order": GIoUAwareLoss}
SIZES = {"dim": 32, "out_channels": 32, "ffn_dim": 32, "num_layers": 2, "dropout": 0.0, "num_queries": 12, "number": 4}


def rules_of(name, *overlays, overrides=()):
    return instantiate(load_config(find_config(name), list(overlays), list(overrides)).model.rules)


def model_of(name, *overlays):
    cfg = load_config(find_config(name), [("tiny", SIZES), *overlays], ["model.num_classes=4"])
    torch.manual_seed(0)
    return instantiate(cfg.model).train()


def losses_of(rules):
    return {group: (type(rule.terms["class"].loss), rule.terms["class"].weight) for group, rule in rules.items()}


@pytest.mark.parametrize("name", HOSTS)
def test_over_every_host(name):
    cfg = load_config(find_config(name))
    bare = instantiate(cfg.model.rules)
    for overlay, kind in LOSSES.items():
        rules = instantiate(apply_overlay(copy.deepcopy(cfg), overlay).model.rules)
        assert rules.keys() == bare.keys() and isinstance(rules["main"].terms["class"].loss, kind)
        for group, rule in rules.items():
            found, usual = (
                [(k, t.weight, repr(t.loss)) for k, t in r.terms.items() if k != "class"] for r in (rule, bare[group])
            )
            assert found == usual and rule.objectness == bare[group].objectness
            assert group == "dn" or (overlay == "mal") == (repr(rule.matcher) == repr(bare[group].matcher))


def test_groups_and_weights_of_dino_are_those_published():
    name = "dino_r50_4scale_12ep"
    assert losses_of(rules_of(name, "mal")) == dict.fromkeys(("main", "enc", "dn"), (MatchabilityLoss, 1.0))
    found = losses_of(rules_of("dino_r50_4scale_12ep_better_hyper", "mal"))
    assert set(found.values()) == {(MatchabilityLoss, 1.0)}
    stable = rules_of(name, "stable")
    assert losses_of(stable) == {"main": (PositionLoss, 6.0), "enc": (PositionLoss, 6.0), "dn": (PositionLoss, 1.0)}
    for group in ("main", "enc"):
        cost, *rest = stable[group].matcher.costs
        assert isinstance(cost, PositionClassCost) and (cost.weight, cost.power, len(rest)) == (2.0, 0.5, 2)
    ordered = rules_of(name, "high_order")
    assert losses_of(ordered) == {"main": (GIoUAwareLoss, 1.0), "enc": (FocalLoss, 1.0), "dn": (FocalLoss, 1.0)}
    assert isinstance(ordered["dn"].matcher, GivenMatcher)
    for group in ("main", "enc"):
        matcher = ordered[group].matcher
        assert isinstance(matcher, LateMatcher) and matcher.since == 0.75
        assert [cost.weight for cost in matcher.early.costs] == [2.0, 5.0, 2.0]
        (cost,) = matcher.late.costs
        assert isinstance(cost, HighOrderCost) and cost.power == 4.0


def test_constants_of_a_host_stay_in_its_costs_and_options_are_reached():
    cost = rules_of("adamixer_r50_12ep", "stable")["main"].matcher.costs[0]
    assert (cost.eps, cost.weight, cost.alpha) == (1e-12, 2.0, 0.25)
    overrides = ["model.rules.main.matcher.since=0.5", "model.rules.main.matcher.late.costs.0.power=2"]
    matcher = rules_of("dab_detr_r50_50ep", "high_order", overrides=overrides)["main"].matcher
    assert (matcher.since, matcher.late.costs[0].power) == (0.5, 2)
    terms = rules_of("dab_detr_r50_50ep", ("mal", {"gamma": 2.0, "weight": 3.0}))["main"].terms
    assert (terms["class"].loss.gamma, terms["class"].weight) == (2.0, 3.0)
    for wrong in ("matcher.since=1.5", "terms.class.loss.gamma=0.5"):
        with pytest.raises(UserError, match="expected at least"):
            rules_of("dab_detr_r50_50ep", "high_order", overrides=[f"model.rules.main.{wrong}"])


def test_the_later_matcher_is_asked_by_the_progress_of_the_training(monkeypatch):
    model, batch = model_of("deformable_detr_r50_two_stage_50ep", "high_order"), example_batch(4, (3, 0))
    sides, inner = [], HungarianMatcher.match

    def match(self, stack, targets):
        sides.append(("early", "late")[isinstance(self.costs[0], HighOrderCost)])
        return inner(self, stack, targets)

    monkeypatch.setattr(HungarianMatcher, "match", match)
    for progress, side in ((0.0, "early"), (0.74, "early"), (0.75, "late"), (1.0, "late")):
        sides.clear()
        model(batch, progress=progress)
        assert sides == [side, side], "queries and proposals"
    sides.clear()
    model(batch)
    assert sides == ["early", "early"]


@pytest.fixture(scope="module")
def narrow():
    return load_config(find_config("dino_r50_4scale_12ep"), [("tiny", SIZES)], ["model.num_classes=4"])


@pytest.mark.parametrize("overlays", [
    ("high_order", "mal", "hybrid"),
    ("stable", "high_order", "group"),
    ("mal", "sqr", "dac", "ice"),
    ("stable", "sqr", "dac"),
    ("mal", "deta"),
    ("high_order", "distill"),
    ("mal", "fcos_rule"),
    ("stable", "one_to_many"),
])  # fmt: skip
def test_they_are_laid_together(overlays, narrow):
    cfg = copy.deepcopy(narrow)
    for overlay in overlays:
        cfg = apply_overlay(cfg, overlay)
    if "distill" in overlays:
        assert isinstance(instantiate(cfg.model.rules)["main"].terms["class"].loss, GIoUAwareLoss)
        return
    losses = instantiate(cfg.model).train()(example_batch(4, (3, 0)), progress=0.9)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())


def test_late_matching_with_the_loss_of_another():
    rules = rules_of("dino_r50_4scale_12ep", "high_order", "mal")
    assert set(losses_of(rules).values()) == {(MatchabilityLoss, 1.0)}
    assert isinstance(rules["main"].matcher, LateMatcher)


def test_hosts_that_do_not_fit_are_refused_and_groups_without_a_rule_are_none():
    softmax, usual = (load_config(find_config(name)) for name in ("detr_r50_300ep", "dino_r50_4scale_12ep"))
    usual.model.rules.dn = None
    boxes_alone = copy.deepcopy(usual)
    boxes_alone.model.rules.main.terms["class"] = None
    for overlay, kind in LOSSES.items():
        with pytest.raises(UserError, match=f"the overlay {overlay} is for hosts with a sigmoid per class"):
            apply_overlay(softmax, overlay)
        with pytest.raises(UserError, match=f"the overlay {overlay} needs a rule with terms"):
            apply_overlay(copy.deepcopy(boxes_alone), overlay)
        laid = instantiate(apply_overlay(copy.deepcopy(usual), overlay).model.rules)
        assert laid["dn"] is None and isinstance(laid["main"].terms["class"].loss, kind)


def test_the_published_recipes():
    rank, longer, stable = (
        load_config(find_config(n))
        for n in ("rank_detr_r50_300q_12ep", "rank_detr_r50_300q_36ep", "stable_dino_r50_4scale_12ep")
    )
    rules = instantiate(rank.model.rules)
    kinds = {"main": GIoUAwareLoss, "enc": FocalLoss, "hybrid": GIoUAwareLoss}
    assert losses_of(rules) == {group: (kind, 2.0) for group, kind in kinds.items()}
    assert isinstance(rules["hybrid"].matcher, RepeatedMatcher) and rules["hybrid"].matcher.times == 6
    assert isinstance(rules["hybrid"].matcher.matcher, LateMatcher)
    assert (rank.train.max_iter, longer.train.max_iter) == (90000, 270000)
    assert (rank.optimizer.lr, rank.optimizer.params.weight_decay_norm) == (1e-4, 0.0)
    assert (rank.model.queries.source.num_queries, rank.model.queries.num_extra) == (300, 1500)
    assert (stable.model.postprocess.nms, stable.train.max_iter, stable.optimizer.lr) == (0.8, 90000, 1e-4)


def test_matchers_that_leave_nothing_to_change_are_refused():
    cfg = load_config(find_config("dino_r50_4scale_12ep"))
    for first in ("one_to_many", "deta", "fcos_rule", "distill", "high_order"):
        laid = apply_overlay(copy.deepcopy(cfg), first)
        for overlay, reason in (("stable", "needs a matcher with a FocalClassCost"), ("high_order", "it needs a Hung")):
            with pytest.raises(UserError, match=f"(?s)the overlay {overlay} .*{reason}.*lay it before overlays"):
                apply_overlay(copy.deepcopy(laid), overlay)
