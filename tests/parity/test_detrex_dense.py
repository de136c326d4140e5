"""Our DETR and DAB-DETR against detrex's, whole and with perturbed weights; skipped where detrex is not importable.

Run in such an environment: ``python -m pytest tests/parity`` (and ``-m slow`` for the trajectories).
"""

from __future__ import annotations

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.checkpoint.layouts import recognize
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate

from .gaps import far, relative, within
from .models import batch, compare_gradients, compare_losses
from .peer import Peer, skip_without_detrex
from .reference_dense import dumped_shapes
from .trajectory import CASES, assert_same_trajectory
from .weights import backbone_shapes, detrex_name, random_state

skip_without_detrex("detr")
skip_without_detrex("dab_detr")
skip_without_detrex("sqr_detr")

SIZES, OBJECTS = [(230, 301), (256, 199)], [5, 3]
SMALL_SIZES = [(96, 133), (120, 87)]
# detrex's model -> our config, detrex's keys, the layout they are
NAMES = {
    "dab": ("dab_detr_r50_50ep", "dab_detr_r50", "detrex"),
    "dab_3patterns": ("dab_detr_r50_3patterns_50ep", "dab_detr_r50_3patterns", "detrex"),
    "dab_dc5": ("dab_detr_r50_dc5_50ep", "dab_detr_r50_dc5", "detrex_dc5"),
    "dab_sqr": ("dab_detr_r50_50ep_sqr", "dab_detr_r50", "detrex"),
    "detr": ("detr_r50_300ep", "detr_r50", "detrex"),
}


FEW = 50  # queries, where images are small


def our_config(variant, queries=None):
    cfg = load_config(NAMES[variant][0])
    cfg.model.num_classes = 80
    cfg.model.encoder.dropout = cfg.model.decoder.dropout = 0.0
    cfg.model.preprocess.parity_padding = True
    cfg.model.queries.num_queries = queries or cfg.model.queries.num_queries
    if variant == "detr":
        cfg.model.rules.main.terms["class"].loss.eos = float(torch.tensor(0.1))  # detrex keeps it in single precision
    return cfg


def pair(variant, dtype=torch.float32, queries=None, seed=1):
    """detrex's model and ours with the same perturbed weights, loaded strictly."""
    _, dump, layout = NAMES[variant]
    own = {k: v for k, v in dumped_shapes(dump).items() if not k.startswith("backbone.")}
    if queries:
        own |= {k: (queries, *v[1:]) for k, v in own.items() if k in ("query_embed.weight", "anchor_box_embed.weight")}
    state = random_state(backbone_shapes() | own, True, seed)
    ours = instantiate(our_config(variant, queries).model)
    assert load_state(ours, state, strict=True).complete
    theirs = state if layout == "detrex" else to_layout(ours, layout)
    peer = Peer(variant, theirs, dtype, **({"num_queries": queries} if queries else {}))
    return peer, ours.to(dtype)


@pytest.fixture(scope="module", params=["dab", "dab_3patterns", "dab_dc5", "detr"])
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
        expected, sets, found = peer(items), ours.forward_sets(items), ours(items)
    assert len(sets) == 6
    compare_sets(f"detrex, {variant}, float32", peer, sets, 1e-5)
    for a, b in zip(found, expected, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == len(b) and a.image_size == b.image_size
        b = b[b.scores.argsort(descending=True, stable=True)]  # detrex's DETR answers in the order of queries
        assert far(a.scores, b.scores) < 1e-5
        near = (a.pred_boxes.tensor - b.pred_boxes.tensor).abs().amax(1) < 1e-2
        assert (near & (a.pred_classes == b.pred_classes)).float().mean() > 0.97  # near ties may swap their ranks


@pytest.mark.parametrize("images", [1, 2])
def test_training(models, images):
    """Stages, every loss, and the gradient, with detrex's training masks."""
    variant, peer, ours = models
    items = batch(SIZES, OBJECTS, 80)[:images]
    peer.model.train()
    ours.train()
    expected, sets = peer(items), ours.forward_sets(items)
    compare_sets(f"detrex, {variant}, float32", peer, sets, 1e-5)
    # one ReLU that flips under rounding moves a tensor by more than rounding does; in fp64, below, nothing flips
    losses = ours(items)
    compare_losses(losses, expected, 1e-5, f"detrex, {variant}, float32: losses")
    compare_backward(f"detrex, {variant}, float32", peer, expected, ours, losses, whole=1e-3, each=5e-3)


def compare_sets(what, peer, sets, tolerance):
    """Sets in the order in which detrex makes them."""
    assert len(sets) == len(peer.seen["logits"])
    for s, logits, boxes in zip(sets, peer.seen["logits"], peer.seen["boxes"], strict=True):
        within(f"{what}: logits", far(s.logits_BQK, logits), tolerance)
        within(f"{what}: boxes", far(s.boxes_BQ4, boxes), tolerance)


def compare_backward(what, peer, expected, ours, losses, whole, each):
    for model, values in ((ours, losses), (peer.model, expected)):
        model.zero_grad(set_to_none=True)
        sum(values.values()).backward()
    grads = {k: p.grad for k, p in peer.model.named_parameters(remove_duplicate=False)}
    names = recognize(grads).rename(grads, ours.state_dict())
    theirs = {detrex_name(names[k], 6): grad for k, grad in grads.items()}
    compare_gradients(ours, theirs, 6, whole, each, f"{what}: gradients")


def test_layout(models):
    """What we write has exactly detrex's keys and shapes, loads strictly into detrex, and comes back."""
    assert_same_layout(*models)


def test_layout_with_query_recollection():
    assert_same_layout("dab_sqr", *pair("dab_sqr"))


def assert_same_layout(variant, peer, ours):
    _, dump, layout = NAMES[variant]
    written = to_layout(ours, layout)
    assert {k: tuple(v.shape) for k, v in written.items()} == dumped_shapes(dump)
    theirs = peer.model.state_dict()
    assert written.keys() == theirs.keys() and all(torch.equal(written[k], v) for k, v in theirs.items())
    peer.model.load_state_dict(written, strict=True)
    again = instantiate(our_config(variant).model)
    assert load_state(again, theirs, strict=True).complete
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize("variant", ["dab", "dab_3patterns", "detr"])
def test_gradients_in_double_precision(variant):
    """Without rounding to hide behind: losses to 1e-12 and each gradient to 1e-9."""
    peer, ours = pair(variant, torch.float64, FEW)
    items = batch(SMALL_SIZES, [3, 2], 80, dtype=torch.float64)
    peer.model.train()
    ours.train()
    expected, losses = peer(items), ours(items)
    compare_losses(losses, expected, 1e-12, f"detrex, {variant}, float64: losses")
    compare_backward(f"detrex, {variant}, float64", peer, expected, ours, losses, whole=1e-9, each=1e-9)


@pytest.mark.parametrize(
    ("dtype", "values", "whole", "each"),
    [(torch.float64, 1e-12, 1e-9, 1e-9), (torch.float32, 1e-5, 1e-4, 1e-3)],
    ids=["fp64", "fp32"],
)
@pytest.mark.parametrize("images", [1, 2, 3])
def test_query_recollection(images, dtype, values, whole, each):
    """All 32 sets of selective query recollection, in their order, the total loss and each gradient."""
    peer, ours = pair("dab_sqr", dtype, FEW, seed=2)  # of seed 1, fp32 alone moves a gradient by 1e-3
    name = f"detrex, dab_sqr, {str(dtype)[-7:]}"
    items = batch([*SMALL_SIZES, (88, 140)][:images], [3, 2, 4][:images], 80, dtype=dtype)
    peer.model.train()
    ours.train()
    expected, sets = peer(items), ours.forward_sets(items)
    assert len(sets) == 32
    compare_sets(name, peer, sets, values)
    losses = ours(items)
    within(f"{name}: losses", relative(*(sum(terms.values()) for terms in (losses, expected))), values)
    compare_backward(name, peer, expected, ours, losses, whole, each)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dab", "detr", "dab_sqr"])
@pytest.mark.parametrize(*CASES)
def test_trajectory(variant, optimizer, dtype, tolerance):
    peer, ours = pair(variant, dtype, FEW)

    def losses(step):
        items = batch(SMALL_SIZES, [3, 2], 80, step, dtype)
        return peer(items), ours(items)

    assert_same_trajectory(peer, ours, our_config(variant), optimizer, tolerance, losses)
