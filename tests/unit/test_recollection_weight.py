"""Query recollection from a part of the training on, and with the weight of one set in all."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.config import find_config, load_config
from detrex_ext.criterion import detr_rules
from detrex_ext.errors import UserError
from detrex_ext.runtime import instantiate
from detrex_ext.strategies import QueryRecollection
from detrex_ext.testing import example_batch

SIZES = {"dim": 32, "out_channels": 32, "ffn_dim": 32, "num_layers": 3, "num_queries": 12}


def model_of(*overrides, overlay="sqr"):
    cfg = load_config(find_config("quickstart"), [("tiny", SIZES), *([overlay] if overlay else [])],
                      ["model.num_classes=4", *overrides])  # fmt: skip
    torch.manual_seed(0)
    return instantiate(cfg.model).train()


def losses(model, progress):
    torch.manual_seed(1)  # of denoising
    return model(example_batch(4, (3, 0)), progress=progress)


def test_a_stage_that_is_repeated_runs_on_the_sets_of_the_last():
    model = model_of("model.strategies.sqr.repeat_last=true")
    with torch.no_grad():
        sets = model.forward_sets(example_batch(4, (2, 1)))
    found = [sum(s.stage == n and s.group == "main" for s in sets) for n in range(4)]
    assert found == model.strategies["sqr"].sets(3) == [1, 2, 3, 3]


def test_recollected_sets_of_a_stage_weigh_together_as_one():
    host = detr_rules()
    host["main"].stage_weights = (2.0, 1.0)
    strategy = QueryRecollection(as_one=True)
    with pytest.raises(ValueError, match=r"call check\(stages\) before rules"):
        strategy.rules(host)
    strategy.check(6)
    (rule,) = strategy.rules(host)
    assert rule.stage_weights == pytest.approx((2.0, 1.0, 1 / 2, 1 / 4, 1 / 7, 1 / 12))
    assert rule.when == {"group": ("main",), "path": ("recollect",)} and rule.terms == host["main"].terms
    assert QueryRecollection().rules(host) == []


def test_as_one_divides_the_losses_of_recollected_sets_alone():
    full, shared = (losses(model_of(f"model.strategies.sqr.as_one={one}"), 0.0) for one in ("false", "true"))
    assert full.keys() == shared.keys()
    for name in full:
        assert torch.equal(full[name], shared[name]) or "recollect" in name
    # stages of three run 0, 1 and 2 recollected sets
    usual, less = (sum(v for k, v in x.items() if "recollect" in k) for x in (full, shared))
    assert 0.5 * usual < less < usual


def test_nothing_is_recollected_before_its_time_and_nothing_counts_for_itself():
    model, bare, always = model_of("model.strategies.sqr.since=0.2"), model_of(overlay=None), model_of()
    for progress, other in ((0.19, bare), (0.2, always), (0.0, bare), (1.0, always)):
        found, expected = losses(model, progress), losses(other, progress)
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("since", [1.0, -0.1, float("nan")])
def test_a_part_that_never_comes_is_refused(since):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        QueryRecollection(since=since)


def test_what_is_no_share_of_a_training_is_refused_in_a_config():
    with pytest.raises(UserError, match=r"model.strategies.sqr.since=-0.1: expected at least 0"):
        model_of("model.strategies.sqr.since=-0.1")
