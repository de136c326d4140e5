"""Our DINO against detrex's, whole and with perturbed weights; skipped where detrex is not importable.

Both draw the noise of denoising from the same seed. Run in such an environment: ``python -m pytest tests/parity`` (and
``-m slow`` for the trajectories).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate

from .models import DINO_VARIANTS, batch, compare_gradients, compare_losses
from .peer import skip_without_detrex
from .peer_dino import DinoPeer
from .trajectory import CASES, assert_same_trajectory
from .weights import backbone_shapes, model_shapes, random_state

skip_without_detrex("dino")

SIZES, OBJECTS = [(230, 301), (256, 199)], [5, 3]
SMALL_SIZES = [(96, 133), (120, 87)]
NAMES = {"dino": ("dino_r50_4scale_12ep", "dino_r50"), "dino_5scale": ("dino_r50_5scale_12ep", "dino_r50_5scale")}
FEW = 150  # queries, where pictures are small


def our_config(variant, queries=900):
    cfg = load_config(NAMES[variant][0])
    cfg.model.num_classes = 80
    cfg.model.queries.source.num_queries = queries
    cfg.model.preprocess.parity_padding = True
    return cfg


def pair(variant, dtype=torch.float32, queries=900, seed=2):
    """detrex's model and ours, which takes detrex's proposals, with the same perturbed weights, loaded strictly."""
    dims = replace(DINO_VARIANTS[variant], queries=queries)
    state = random_state(backbone_shapes() | model_shapes(dims), dims.refine, seed)
    ours = instantiate(our_config(variant, queries).model)
    assert load_state(ours, state, strict=True).complete
    peer, source = DinoPeer(variant, state, dtype, num_queries=queries), ours.queries.source

    def select(scores_BS):
        source.own_choice = type(source).select(source, scores_BS)
        return peer.chosen_BQ

    source.select = select
    return peer, ours.to(dtype)


def seeded(run, items, seed=5):
    torch.manual_seed(seed)
    return run(items)


def gap(a, b):
    return float((a - b).detach().abs().max())


def worst(sets, logits, boxes):
    assert [s.stage for s in sets] == list(range(len(logits)))
    return max(max(gap(s.logits_BQK, logits[s.stage]), gap(s.boxes_BQ4, boxes[s.stage])) for s in sets)


def of(sets, group):
    return [s for s in sets if s.group == group]


@pytest.fixture(scope="module", params=list(DINO_VARIANTS))
def models(request):
    return pair(request.param)


@pytest.mark.parametrize("images", [1, 2])
def test_evaluation(models, images):
    """Six stages of logits and boxes with detrex's evaluation masks, and the detections."""
    peer, ours = models
    items = batch(SIZES, OBJECTS, 80)[:images]
    peer.model.eval()
    ours.eval()
    with torch.no_grad():
        expected, sets, found = peer(items), ours.forward_sets(items), ours(items)
    own = ours.queries.source.own_choice
    assert (own == peer.chosen_BQ).float().mean() > 0.98  # near ties may swap their ranks
    assert (own.sort(1).values == peer.chosen_BQ.sort(1).values).float().mean() > 0.99
    assert {s.group for s in sets} == {"main"} and len(sets) == 6
    assert worst(sets, peer.seen["logits"], peer.seen["boxes"]) < 1e-5
    for a, b in zip(found, expected, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == len(b) and a.image_size == b.image_size
        assert gap(a.scores, b.scores) < 1e-5
        assert (a.pred_classes == b.pred_classes).float().mean() > 0.98


@pytest.mark.parametrize("images", [1, 2])
def test_training(models, images):
    """Stages of matching and denoising queries, the proposals, and every loss; gradients are compared in fp64 below."""
    peer, ours = models
    items = batch(SIZES, OBJECTS, 80)[:images]
    peer.model.train()
    ours.train()
    with torch.no_grad():
        expected, sets, losses = seeded(peer, items), seeded(ours.forward_sets, items), seeded(ours, items)
    denoised, matched = peer.seen["calls"]
    assert of(sets, "dn")[0].boxes_BQ4.shape[1] == 200
    assert worst(of(sets, "dn"), *denoised) < 1e-5
    assert worst(of(sets, "main"), *matched) < 1e-5
    (enc,) = of(sets, "enc")
    assert gap(enc.logits_BQK, peer.seen["enc"]["pred_logits"]) < 1e-5
    assert gap(enc.boxes_BQ4, peer.seen["enc"]["pred_boxes"]) < 1e-5
    compare_losses(losses, expected, 1e-5)


def test_training_without_objects(models):
    """No denoising query then; detrex reports zeros."""
    peer, ours = models
    items = batch(SIZES, [0, 0], 80)
    peer.model.train()
    ours.train()
    with torch.no_grad():
        expected = peer(items)
        compare_losses(ours(items), expected, 1e-5)


@pytest.mark.parametrize("variant", list(DINO_VARIANTS))
def test_gradients_in_double_precision(variant):
    """Without rounding to hide behind: losses to 1e-12 and each gradient to 1e-9."""
    peer, ours = pair(variant, torch.float64, FEW)
    items = batch(SMALL_SIZES, [3, 2], 80)
    peer.model.train()
    ours.train()
    expected, losses = seeded(peer, items), seeded(ours, items)
    assert torch.equal(ours.queries.source.own_choice, peer.chosen_BQ)
    compare_losses(losses, expected, 1e-12)
    for values in (losses, expected):
        sum(values.values()).backward()
    theirs = {k: p.grad for k, p in peer.model.named_parameters(remove_duplicate=False)}
    compare_gradients(ours, theirs, 6, whole=1e-9, each=1e-9)


@pytest.mark.parametrize("variant", list(DINO_VARIANTS))
def test_layout(variant):
    """What we write has exactly detrex's keys and shapes, loads strictly into detrex, and comes back."""
    peer, ours = pair(variant)
    written = to_layout(ours, "detrex")
    dump = json.loads((Path(__file__).parent / "keys" / f"{NAMES[variant][1]}.json").read_text())
    assert {k: list(v.shape) for k, v in written.items()} == dump
    theirs = peer.model.state_dict()
    assert written.keys() == theirs.keys() and all(torch.equal(written[k], v) for k, v in theirs.items())
    peer.model.load_state_dict(written, strict=True)
    again = instantiate(our_config(variant).model)
    report = load_state(again, theirs, strict=True)
    assert report.complete and all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(*CASES)
def test_trajectory(optimizer, dtype, tolerance):
    peer, ours = pair("dino", dtype, FEW)

    def losses(step):
        items = batch(SMALL_SIZES, [3, 2], 80, seed=step)
        return seeded(peer, items, step), seeded(ours, items, step)

    assert_same_trajectory(peer, ours, our_config("dino", FEW), optimizer, tolerance, losses)
