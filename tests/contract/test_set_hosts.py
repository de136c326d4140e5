"""Hosts whose tokens meet in the encoder: the row of the contract's table, where each strategy passes or is refused."""

from __future__ import annotations

import pytest

from detrex_ext.config import apply_overlay, get_config, load_config
from detrex_ext.errors import UserError
from detrex_ext.modeling.queries import DenoisingQueries, GroupQueries, HybridQueries
from detrex_ext.runtime import instantiate
from detrex_ext.strategies import (
    CollaborativeHeads,
    DivideAndConquer,
    MixedSupervision,
    MultiRoute,
    QueryRecollection,
    StochasticDepth,
    Strategy,
)
from detrex_ext.testing import check_strategy, example_batch

from .hosts import CLASSES, SET_HOSTS, SOURCES

PASSES = {"none": Strategy, "dac from the initial queries": lambda: DivideAndConquer(start="init")}
REFUSED = {
    "sqr": (QueryRecollection, "recollection needs a decoder of several stages"),
    "dqr": (lambda: QueryRecollection(window=None), "recollection needs a decoder of several stages"),
    "dac": (DivideAndConquer, "a decoder of one stage leaves nothing to divide"),
    "stochastic depth": (StochasticDepth, "stochastic depth needs a decoder of several stages"),
    "mr": (MultiRoute, "multi-route training takes a decoder's layers of self-attention"),
    "ms": (MixedSupervision, "mixed supervision takes a decoder's layers of self-attention"),
    "co": (CollaborativeHeads, "collaborative heads read the maps of an encoder"),
}
SOURCES_REFUSED = {
    "hybrid": (lambda source: HybridQueries(source, 8), "TokenQueries makes no extra queries"),
    "group": (lambda source: GroupQueries(source, 3), "TokenQueries learns nothing"),
    "denoising": (lambda source: DenoisingQueries(source, CLASSES, 32), "TokenQueries cannot"),
}


@pytest.mark.parametrize("objects", [(3,), (3, 0), (0, 0), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("strategy", PASSES)
@pytest.mark.parametrize("host", SET_HOSTS)
def test_passes(host, strategy, objects):
    held = check_strategy(PASSES[strategy](), SET_HOSTS[host](), objects)
    assert {"eval identity", "plain path", "isolation", "finite gradients"} <= set(held)


@pytest.mark.parametrize("strategy", REFUSED)
@pytest.mark.parametrize("host", SET_HOSTS)
def test_strategies_of_several_stages_are_refused(host, strategy):
    make, message = REFUSED[strategy]
    with pytest.raises(ValueError, match=message):
        SET_HOSTS[host]().use({"refused": make()})


@pytest.mark.parametrize("source", SOURCES_REFUSED)
@pytest.mark.parametrize("host", SET_HOSTS)
def test_further_queries_are_refused(host, source):
    wrap, message = SOURCES_REFUSED[source]
    with pytest.raises(ValueError, match=message):
        wrap(SET_HOSTS[host]().queries)
    assert source == "denoising" or source in SOURCES


# what an overlay says that makes no sense here
OVERLAYS = {
    "sqr": "recollection needs a decoder of several stages",
    "dqr": "recollection needs a decoder of several stages",
    "dac": "a decoder of one stage leaves nothing to divide",
    "stochastic_depth": "stochastic depth needs a decoder of several stages",
    "mr": "multi-route training takes a decoder's layers of self-attention",
    "ms": "mixed supervision takes a decoder's layers of self-attention",
    "co": "collaborative heads read the maps of an encoder",
    "hybrid": "TokenQueries makes no extra queries",
    "group": "TokenQueries learns nothing",
    "deta": "the overlay deta needs a two-stage host",
    "ice": "the overlay ice needs a rule with terms",
    "mal": "the overlay mal needs a rule with terms",
    "stable": "the overlay stable needs a rule with terms",
    "high_order": "the overlay high_order needs a rule with terms",
    "one_to_many": None,
    "fcos_rule": "the overlay fcos_rule needs a two-stage host",
    "roi_rule": "the overlay roi_rule needs a two-stage host",
}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("config", ["tsp_fcos_r50_3x", "tsp_rcnn_r50_3x"])
def test_every_overlay_passes_or_is_refused(config, overlay):
    cfg = load_config(config, ["tiny"], ["model.num_classes=4"])
    if OVERLAYS[overlay] is not None:
        with pytest.raises((UserError, ValueError), match=OVERLAYS[overlay]):
            instantiate(apply_overlay(cfg, overlay).model)
        return
    model = instantiate(apply_overlay(cfg, overlay).model).train()
    losses = model(example_batch(4, (3, 2)))
    assert all(v.isfinite() for v in losses.values())
    assert model.eval()(example_batch(4, (1,)))[0]["instances"].scores.isfinite().all()


@pytest.mark.parametrize("match", ["restricted", "hungarian", "one_to_many"])
@pytest.mark.parametrize("objects", [(3, 2), (0, 0), (2, 0)], ids=str)
@pytest.mark.parametrize("host", ["tsp-fcos", "tsp-rcnn"])
def test_every_matching_of_the_rule_trains(host, match, objects):
    cfg = get_config(f"common/models/{host.replace('-', '_')}_r50.py").model
    model = SET_HOSTS[host]().train()
    cfg.rules.main.match = match
    model.rules = {**model.rules, "main": instantiate(cfg.rules).pop("main")}
    model.rules["main"].when = {"group": ("main",)}
    model.use({})
    losses = model(example_batch(CLASSES, objects))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
