"""Our Deformable-DETR against detrex's, whole and with perturbed weights; skipped where detrex is not importable.

Run in such an environment: ``python -m pytest tests/parity`` (and ``-m slow`` for the trajectories).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate

from .forced import choose, same_choice
from .gaps import far, within
from .models import VARIANTS, batch, compare_gradients, compare_losses
from .peer import Peer, skip_without_detrex
from .trajectory import CASES, assert_same_trajectory
from .weights import backbone_shapes, model_shapes, random_state

skip_without_detrex()

SIZES, OBJECTS = [(230, 301), (256, 199)], [5, 3]
KEYS = {
    "plain": "deformable_detr_r50",
    "refine": "deformable_detr_r50_box_refine",
    "two_stage": "deformable_detr_r50_two_stage",
}
CONFIGS = {
    "plain": "deformable_detr_r50_50ep",
    "refine": "deformable_detr_r50_box_refine_50ep",
    "two_stage": "deformable_detr_r50_two_stage_50ep",
}


def our_config(variant):
    cfg = load_config(CONFIGS[variant])
    cfg.model.num_classes = 80
    cfg.model.encoder.dropout = cfg.model.decoder.dropout = 0.0
    cfg.model.preprocess.parity_padding = True
    return cfg


def pair(variant, dtype=torch.float32, seed=1):
    """detrex's model and ours with the same perturbed weights, loaded strictly."""
    dims = VARIANTS[variant]
    state = random_state(backbone_shapes() | model_shapes(dims), dims.refine, seed)
    ours = instantiate(our_config(variant).model)
    assert load_state(ours, state, strict=True).complete
    return Peer(variant, state, dtype), ours.to(dtype)


@pytest.fixture(scope="module", params=list(VARIANTS))
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
        own = choose(ours.queries, peer.chosen_BQ)
        sets = [s for s in ours.forward_sets(items) if s.group == "main"]
        found = ours(items)
    assert len(sets) == 6
    for s in sets:
        within(f"detrex, {variant}, float32: logits", far(s.logits_BQK, peer.seen["logits"][s.stage]), 1e-5)
        within(f"detrex, {variant}, float32: boxes", far(s.boxes_BQ4, peer.seen["boxes"][s.stage]), 1e-5)
    assert not own or same_choice(own[0], peer.chosen_BQ) > 0.99
    for a, b in zip(found, expected, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == len(b) and a.image_size == b.image_size
        assert far(a.scores, b.scores) < 1e-5
        same = a.pred_classes == b.pred_classes  # near ties may swap their ranks
        assert same.float().mean() > 0.98
        assert far(a.pred_boxes.tensor[same], b.pred_boxes.tensor[same]) < 1e-2 or same.float().mean() < 1


@pytest.mark.parametrize("images", [1, 2])
def test_training(models, images):
    """Stages, the encoder's proposals, every loss, and the gradient, with detrex's training masks."""
    variant, peer, ours = models
    items = batch(SIZES, OBJECTS, 80)[:images]
    peer.model.train()
    ours.train()
    expected = peer(items)
    choose(ours.queries, peer.chosen_BQ)
    sets = ours.forward_sets(items)
    for s in sets:
        logits, boxes = (peer.seen[k] for k in ("logits", "boxes")) if s.group == "main" else ([], [])
        if s.group == "enc":
            logits, boxes = [peer.seen["enc"]["pred_logits"]], [peer.seen["enc"]["pred_boxes"]]
        within(f"detrex, {variant}, float32: logits", far(s.logits_BQK, logits[s.stage]), 1e-5)
        within(f"detrex, {variant}, float32: boxes", far(s.boxes_BQ4, boxes[s.stage]), 1e-5)
    assert {s.group for s in sets} == ({"main", "enc"} if variant == "two_stage" else {"main"})
    losses = ours(items)
    # one ReLU or bilinear cell that flips under rounding moves a tensor by more than rounding does; without rounding,
    # below, there is no such excuse
    compare_with(f"detrex, {variant}, float32", peer, expected, ours, losses, 1e-5, whole=1e-4, each=5e-3)


def compare_with(what, peer, expected, ours, losses, loss_gap, whole, each):
    compare_losses(losses, expected, loss_gap, f"{what}: losses")
    for model, values in ((ours, losses), (peer.model, expected)):
        model.zero_grad(set_to_none=True)
        sum(values.values()).backward()
    theirs = {k: p.grad for k, p in peer.model.named_parameters(remove_duplicate=False)}
    compare_gradients(ours, theirs, 6, whole, each, f"{what}: gradients")


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_layout(variant):
    """What we write has exactly detrex's keys and shapes, loads strictly into detrex, and comes back."""
    peer, ours = pair(variant)
    written = to_layout(ours, "detrex")
    dump = json.loads((Path(__file__).parent / "keys" / f"{KEYS[variant]}.json").read_text())
    assert {k: list(v.shape) for k, v in written.items()} == dump
    theirs = peer.model.state_dict()
    assert written.keys() == theirs.keys() and all(torch.equal(written[k], v) for k, v in theirs.items())
    peer.model.load_state_dict(written, strict=True)
    again = instantiate(our_config(variant).model)
    report = load_state(again, theirs, strict=True)
    assert report.complete and all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_gradients_in_double_precision(variant):
    """Without rounding to hide behind: losses to 1e-12 and each gradient to 1e-9."""
    peer, ours = pair(variant, torch.float64)
    items = batch([(96, 133), (120, 87)], [3, 2], 80, dtype=torch.float64)
    peer.model.train()
    ours.train()
    expected = peer(items)
    losses = ours(items)
    compare_with(f"detrex, {variant}, float64", peer, expected, ours, losses, 1e-12, whole=1e-9, each=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize(*CASES)
def test_trajectory(variant, optimizer, dtype, tolerance):
    peer, ours = pair(variant, dtype)

    def losses(step):
        items = batch([(96, 133), (120, 87)], [3, 2], 80, step, dtype)
        expected = peer(items)
        choose(ours.queries, peer.chosen_BQ)
        return expected, ours(items)

    assert_same_trajectory(peer, ours, our_config(variant), optimizer, tolerance, losses)
