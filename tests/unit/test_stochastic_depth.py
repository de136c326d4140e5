"""Stochastic depth: which stages a pass keeps, and what that leaves of it."""

from __future__ import annotations

import pytest
import torch
from test_recollection import build, memory

from detrex_ext.config import find_config, load_config
from detrex_ext.runtime import instantiate
from detrex_ext.strategies import QueryRecollection, StochasticDepth


def test_each_stage_is_kept_as_often_as_its_probability_says():
    torch.manual_seed(0)
    strategy, kept = StochasticDepth(1.0, 0.5), torch.zeros(6)
    for _ in range(2000):
        kept[list(strategy.plan(range(6)))] += 1
    deviation = (kept / 2000 - torch.linspace(1, 0.5, 6)).abs()
    assert deviation[0] == 0 and deviation.max() < 0.04  # 3.5 standard deviations


def test_a_pass_is_that_of_the_kept_layers_and_inference_has_all(monkeypatch):
    model, mem = build(4), memory()
    q, _ = model["source"](mem)
    strategy = StochasticDepth()
    monkeypatch.setattr(strategy, "plan", lambda order: [order[i] for i in (0, 2)])
    found = model["decoder"](q, mem, [strategy])
    model["decoder"].order = (0, 2)
    for a, b in zip(found, model["decoder"](q, mem), strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and a.stage == b.stage
    model.eval()
    assert len(model["decoder"](q, mem, [strategy])) == 4


def test_one_stage_at_least_and_recollection_of_those_that_run():
    assert StochasticDepth(0.0, 0.0).plan((0, 1, 2)) == [2]
    model, mem = build(4), memory()
    q, _ = model["source"](mem)
    sets = model["decoder"](q, mem, [StochasticDepth(0.0, 0.0), QueryRecollection()])
    assert [(s.stage, s.path) for s in sets] == [(0, "plain")]
    with pytest.raises(ValueError, match="first is a probability"):
        StochasticDepth(first=1.5)


def test_the_overlay():
    cfg = load_config(find_config("quickstart"), ["stochastic_depth"], ["model.strategies.stochastic_depth.last=0.9"])
    cfg.model.num_classes = 3
    assert instantiate(cfg.model).strategies["stochastic_depth"].last == 0.9
    assert cfg.train.ddp.find_unused_parameters  # those of a skipped stage


def test_the_overlay_skips_no_pass_that_another_strategy_adds():
    """The last stage's second pass (DQRR) is there however many stages are skipped."""
    never = ["model.strategies.stochastic_depth.last=0", "model.strategies.stochastic_depth.first=0"]
    cfg = load_config("adamixer_r50_12ep_dqrr", ["tiny", "stochastic_depth"], [*never, "model.num_classes=3"])
    strategies = list(instantiate(cfg.model).strategies.values())
    order = range(3)
    for strategy in strategies:
        order = strategy.plan(order)
    assert list(order) == [2, 2]
