"""Our DINO against detrex's, whole and with perturbed weights; skipped where detrex is not importable.

Both draw the noise of denoising from the same seed. Run in such an environment: ``python -m pytest tests/parity`` (and
``-m slow`` for the trajectories).
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate

from .forced import choose, double_by_default, same_choice
from .gaps import far, within
from .models import DINO_VARIANTS, batch, compare_gradients, compare_losses
from .peer import Peer, skip_without_detrex
from .trajectory import CASES, assert_same_trajectory
from .weights import backbone_shapes, model_shapes, random_state

skip_without_detrex("dino")

SIZES, OBJECTS = [(230, 301), (256, 199)], [5, 3]
SMALL_SIZES = [(96, 133), (120, 87)]
NAMES = {"dino": ("dino_r50_4scale_12ep", "dino_r50"), "dino_5scale": ("dino_r50_5scale_12ep", "dino_r50_5scale")}
FEW = 150  # queries, where images are small


def our_config(variant, queries=900):
    cfg = load_config(NAMES[variant][0])
    cfg.model.num_classes = 80
    cfg.model.queries.source.num_queries = queries
    cfg.model.preprocess.parity_padding = True
    return cfg


def pair(variant, dtype=torch.float32, queries=900, seed=2):
    """detrex's model and ours with the same perturbed weights, loaded strictly."""
    dims = replace(DINO_VARIANTS[variant], queries=queries)
    state = random_state(backbone_shapes() | model_shapes(dims), dims.refine, seed)
    ours = instantiate(our_config(variant, queries).model)
    assert load_state(ours, state, strict=True).complete
    return Peer(variant, state, dtype, num_queries=queries), ours.to(dtype)


def seeded(run, items, seed=5, dtype=torch.float32):
    """In double the noise is drawn in double too."""
    torch.manual_seed(seed)
    with double_by_default() if dtype == torch.float64 else nullcontext():
        return run(items)


def compare_sets(what, sets, logits, boxes):
    assert [s.stage for s in sets] == list(range(len(logits)))
    for s in sets:
        within(f"detrex, {what}, float32: logits", far(s.logits_BQK, logits[s.stage]), 1e-5)
        within(f"detrex, {what}, float32: boxes", far(s.boxes_BQ4, boxes[s.stage]), 1e-5)


def of(sets, group):
    return [s for s in sets if s.group == group]


@pytest.fixture(scope="module", params=list(DINO_VARIANTS))
def models(request):
    return request.param, *pair(request.param)


@pytest.mark.parametrize("images", [1, 2])
def test_evaluation(models, images):
    """Six stages of logits and boxes with detrex's evaluation masks, and the detections."""
    variant, peer, ours = models
    items = batch(SIZES, OBJECTS, 80)[:images]
    peer.model.eval()
    ours.eval()
    with torch.no_grad():
        expected = peer(items)
        own = choose(ours.queries.source, peer.chosen_BQ)
        sets, found = ours.forward_sets(items), ours(items)
    assert (own[0] == peer.chosen_BQ).float().mean() > 0.98  # near ties may swap their ranks
    assert same_choice(own[0], peer.chosen_BQ) > 0.99
    assert {s.group for s in sets} == {"main"} and len(sets) == 6
    compare_sets(variant, sets, peer.seen["logits"], peer.seen["boxes"])
    for a, b in zip(found, expected, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == len(b) and a.image_size == b.image_size
        assert far(a.scores, b.scores) < 1e-5
        assert (a.pred_classes == b.pred_classes).float().mean() > 0.98


@pytest.mark.parametrize("images", [1, 2])
def test_training(models, images):
    """Stages of matching and denoising queries, the proposals, and every loss; gradients are compared in fp64 below."""
    variant, peer, ours = models
    items = batch(SIZES, OBJECTS, 80)[:images]
    peer.model.train()
    ours.train()
    with torch.no_grad():
        expected = seeded(peer, items)
        choose(ours.queries.source, peer.chosen_BQ)
        sets, losses = seeded(ours.forward_sets, items), seeded(ours, items)
    denoised, matched = peer.seen["calls"]
    assert of(sets, "dn")[0].boxes_BQ4.shape[1] == 200
    compare_sets(variant, of(sets, "dn"), *denoised)
    compare_sets(variant, of(sets, "main"), *matched)
    (enc,) = of(sets, "enc")
    assert far(enc.logits_BQK, peer.seen["enc"]["pred_logits"]) < 1e-5
    assert far(enc.boxes_BQ4, peer.seen["enc"]["pred_boxes"]) < 1e-5
    compare_losses(losses, expected, 1e-5, f"detrex, {variant}, float32: losses")


def test_training_without_objects(models):
    """No denoising query then; detrex reports zeros."""
    variant, peer, ours = models
    items = batch(SIZES, [0, 0], 80)
    peer.model.train()
    ours.train()
    with torch.no_grad():
        expected = peer(items)
        choose(ours.queries.source, peer.chosen_BQ)
        compare_losses(ours(items), expected, 1e-5, f"detrex, {variant}, float32: losses without objects")


@pytest.mark.parametrize("variant", list(DINO_VARIANTS))
def test_gradients_in_double_precision(variant):
    """Without rounding to hide behind: losses to 1e-12 and each gradient to 1e-9."""
    peer, ours = pair(variant, torch.float64, FEW)
    items = batch(SMALL_SIZES, [3, 2], 80, dtype=torch.float64)
    peer.model.train()
    ours.train()
    expected, losses = seeded(peer, items), seeded(ours, items, dtype=torch.float64)
    compare_losses(losses, expected, 1e-12, f"detrex, {variant}, float64: losses")
    for values in (losses, expected):
        sum(values.values()).backward()
    theirs = {k: p.grad for k, p in peer.model.named_parameters(remove_duplicate=False)}
    compare_gradients(ours, theirs, 6, 1e-9, 1e-9, f"detrex, {variant}, float64: gradients")


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
        items = batch(SMALL_SIZES, [3, 2], 80, step, dtype)
        expected = seeded(peer, items, step)
        choose(ours.queries.source, peer.chosen_BQ)
        return expected, seeded(ours, items, step, dtype)

    assert_same_trajectory(peer, ours, our_config("dino", FEW), optimizer, tolerance, losses)
