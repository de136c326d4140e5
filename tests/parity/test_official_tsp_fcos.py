"""TSP-FCOS against the official one; ``DETREX_EXT_TSP`` names a checkout of Edward-Sun/TSP-Detection."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from detrex_ext.checkpoint import load_weights, to_layout
from detrex_ext.config import load_config
from detrex_ext.runtime import EventStorage, instantiate

from .forced import computing_in, same_choice, watched_choice
from .gaps import far, relative, within
from .models import batch
from .peer_tsp import CLASSES, FCOS_SCRIPT, TOKENS, build, skip_without_checkout, written_back

skip_without_checkout()

SIZES, OBJECTS = [(150, 203), (123, 250)], [5, 3]
PRECISION = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
OVERRIDES = ("encoder.parity_padding=true", "encoder.mask_padded_tokens=false", "encoder.dropout=0")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of the official model, and the model."""
    sizes = ("MODEL.FCOS.NUM_CLASSES", CLASSES, "MODEL.FCOS.NUM_PROPOSAL", TOKENS)
    peer = build("Base-FCOS-TSP.yaml", FCOS_SCRIPT, *sizes)
    file = tmp_path_factory.mktemp("tsp") / "model_final.pth"
    torch.save({"model": peer.state_dict()}, file)
    return peer, file


def pair(written, dtype):
    """Both with the same weights, ours read from the official file."""
    peer, file = written
    sizes = (f"model.num_classes={CLASSES}", f"model.encoder.num_tokens={TOKENS}")
    cfg = load_config("tsp_fcos_r50_3x", (), [*sizes, *(f"model.{key}" for key in OVERRIDES)]).model
    ours = instantiate(cfg)
    report = load_weights(ours, file)
    assert report.complete and not report.unexpected and not report.mismatched
    ours.preprocess.channels_last = False  # on a CPU torch's group norm rounds several times more coarsely with it
    peer.load_state_dict(torch.load(file)["model"])  # statistics of norms too, which a training pass changes
    return peer.to(dtype), ours.to(dtype)


def run(peer, ours, items, dtype, training):
    """What both made of a batch: answers, choices, what went into their encoders and came out."""
    seen = SimpleNamespace(theirs={}, ours={}, own=None)
    kept = []
    choice = np.random.choice
    choose = ours.encoder.choose

    def watched_subset(*args, **named):
        kept.append(choice(*args, **named))
        return kept[-1]

    def chosen(*args):
        seen.own = choose(*args)
        return seen.own if dtype == torch.float64 else theirs[-1]

    def their_hook(module, args, named, out):
        seen.theirs = {"tokens": args[0].transpose(0, 1), "positions": named["pos"].transpose(0, 1)}
        seen.theirs["encoded"] = out.transpose(0, 1)

    def our_hook(module, args, out):
        seen.ours = {"tokens": args[0], "positions": args[1], "encoded": out}

    bgr = [{**item, "image": item["image"].flip(0)} for item in items]
    with ExitStack() as held:
        for hook in (
            peer.transformer_encoder.register_forward_hook(their_hook, with_kwargs=True),
            ours.encoder.encoder.register_forward_hook(our_hook),
        ):
            held.callback(hook.remove)
        held.enter_context(computing_in(dtype))
        held.enter_context(EventStorage(0))
        held.enter_context(mock.patch.object(np.random, "choice", watched_subset))
        np.random.seed(3)
        with watched_choice(TOKENS) as theirs:
            seen.answer = peer.train(training)(bgr)
        held.enter_context(mock.patch.object(ours.encoder, "choose", chosen))
        in_order = torch.from_numpy(kept[0]) if kept else None
        held.enter_context(mock.patch.object(ours.encoder, "kept", lambda count: in_order))
        seen.found = ours.train(training)(items)
        assert len(kept) == training and (not training or len(kept[0]) < TOKENS)
    share = same_choice(seen.own, theirs[-1])
    assert share == 1.0 if dtype == torch.float64 else share > 0.97
    return seen


def compare(name, seen, tolerance):
    for what, expected in seen.theirs.items():
        scale = max(1.0, float(expected.detach().abs().max()))
        within(f"{name}: {what}", far(seen.ours[what], expected) / scale, tolerance)


def test_the_file_is_read_whole_and_written_back(written):
    peer, file = written
    state = torch.load(file)["model"]
    _, ours = pair(written, torch.float32)
    written_back(ours, state, 413)


@PRECISION
def test_training(written, dtype, tolerance):
    """The same points, a random share of them, tokens, encoder, all four losses, all gradients."""
    name = f"TSP-FCOS, {str(dtype)[-7:]}"
    peer, ours = pair(written, dtype)
    seen = run(peer, ours, batch(SIZES, OBJECTS, CLASSES, dtype=dtype), dtype, training=True)
    compare(name, seen, tolerance)
    names = {"class_token": "local_cls", "class": "cls", "giou": "loc", "centerness": "ctr"}
    for own, their in names.items():
        gap = relative(seen.found[f"loss_{own}"], seen.answer[f"loss_fcos_{their}"])
        within(f"{name}: losses", gap, tolerance)
    if dtype == torch.float64:
        for side in (seen.found, seen.answer):
            sum(side.values()).backward()
        grads = to_layout({k: p.grad for k, p in ours.named_parameters() if p.grad is not None}, "tsp")
        theirs = {k: p.grad for k, p in peer.named_parameters() if p.grad is not None}
        assert len(theirs) == 182
        for key, grad in theirs.items():
            within(f"{name}: gradients", far(grads[key], grad) / max(float(grad.abs().max()), 1e-9), 1e-9)
        peer.zero_grad()


@PRECISION
def test_inference(written, dtype, tolerance):
    """The same boxes after suppression."""
    name = f"TSP-FCOS, {str(dtype)[-7:]}"
    peer, ours = pair(written, dtype)
    items = batch(SIZES, OBJECTS, CLASSES, dtype=dtype)
    with torch.no_grad():
        seen = run(peer, ours, items, dtype, training=False)
    compare(name, seen, tolerance)
    for expected, found, (h, w) in zip(seen.answer, seen.found, SIZES, strict=True):
        expected, found = expected["instances"], found["instances"]
        assert len(found) > 50
        by = expected.scores.argsort(descending=True, stable=True)
        assert torch.equal(found.pred_classes, expected.pred_classes[by])
        within(f"{name}: scores", far(found.scores, expected.scores[by]), tolerance)
        gap = (found.pred_boxes.tensor - expected.pred_boxes.tensor[by]) / torch.tensor([w, h, w, h])
        within(f"{name}: boxes", float(gap.abs().max()), tolerance)
