"""TSP-RCNN against the official one; ``DETREX_EXT_TSP`` names a checkout of Edward-Sun/TSP-Detection."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from detrex_ext.checkpoint import load_weights, to_layout
from detrex_ext.config import load_config
from detrex_ext.runtime import EventStorage, instantiate

from .forced import computing_in
from .gaps import far, relative, within
from .models import batch
from .peer_tsp import CLASSES, RCNN_SCRIPT, build, packages, skip_without_checkout, written_back

skip_without_checkout()

PROPOSALS, CANDIDATES = 60, 300
SIZES, OBJECTS = [(150, 203), (123, 250)], [5, 3]
PRECISION = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
OVERRIDES = (
    "encoder.dropout=0",
    f"encoder.rpn.num_proposals={PROPOSALS}",
    f"encoder.rpn.num_candidates=[{CANDIDATES},{CANDIDATES}]",
    f"encoder.num_samples={PROPOSALS}",
    "rules.main.empty=nothing",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The official model, a file of it, and a batch whose objects lie near to some of its proposals.

    Statistics of norms are those of the batch, so that at inference values are of order one too.
    """
    most = {"PRE_NMS_TOPK": CANDIDATES, "POST_NMS_TOPK": PROPOSALS}
    most = [x for name, n in most.items() for end in ("TRAIN", "TEST") for x in (f"MODEL.RPN.{name}_{end}", n)]
    heads = ("MODEL.ROI_HEADS.NUM_CLASSES", CLASSES, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", PROPOSALS)
    peer = build("Base-RCNN-TSP.yaml", RCNN_SCRIPT, *most, *heads)
    with torch.no_grad():
        peer.roi_heads.box_predictor.bbox_pred.layers[-1].weight.mul_(100.0)
    norms = [m for m in peer.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    found = []
    hook = peer.proposal_generator.register_forward_hook(lambda module, args, out: found.append(out[0]))
    items = batch(SIZES, OBJECTS, CLASSES)
    with torch.no_grad(), EventStorage(0):
        for momentum in (1.0, 0.1):
            for norm in norms:
                norm.momentum = momentum
            if momentum == 1.0:
                peer.train()([{**item, "image": item["image"].flip(0)} for item in items])
    hook.remove()
    near = [x.proposal_boxes.tensor[2 :: PROPOSALS // 8][:n] for x, n in zip(found[0], OBJECTS, strict=True)]
    file = tmp_path_factory.mktemp("tsp") / "model_final.pth"
    torch.save({"model": peer.state_dict()}, file)
    return peer, file, near


def around(near, dtype):
    """The batch with objects near to these boxes."""
    items = batch(SIZES, OBJECTS, CLASSES, dtype=dtype)
    for item, boxes in zip(items, near, strict=True):
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        item["instances"].gt_boxes.tensor = (boxes + 0.03 * sides * torch.tensor([1.0, 1.0, -1.0, 1.0])).to(dtype)
    return items


def pair(written, dtype):
    """Both with the same weights, ours read from the official file."""
    peer, file, _ = written
    cfg = load_config("tsp_rcnn_r50_3x", (), [f"model.num_classes={CLASSES}", *(f"model.{key}" for key in OVERRIDES)])
    ours = instantiate(cfg.model)
    report = load_weights(ours, file)
    assert report.complete and not report.unexpected and not report.mismatched
    ours.preprocess.channels_last = False
    peer.load_state_dict(torch.load(file)["model"])  # statistics of norms too, which a training pass changes
    return peer.to(dtype), ours.to(dtype)


class Choices:
    """What the official model samples of anchors and regions, in the order in which it does, made ours to sample."""

    def __init__(self) -> None:
        self.anchors: list[torch.Tensor] = []
        self.regions: list[torch.Tensor] = []
        self.own: dict[str, list] = {"anchors": [], "regions": []}

    def watched(self, subsample, name):
        def watch(labels, number, share, background):
            found = subsample(labels, number, share, background)
            getattr(self, name).append(torch.zeros_like(labels, dtype=torch.bool).index_fill(0, torch.cat(found), True))
            return found

        return watch

    def forced(self, name):
        def sample(positive, negative):
            self.own[name].append((positive, negative))
            mask = torch.zeros_like(positive)
            for row, taken in zip(mask, getattr(self, name), strict=True):
                row[: len(taken)] = taken
            assert not (mask & ~positive & ~negative).any()
            return mask

        return sample


def run(peer, ours, items, dtype, training):
    """What both made of a batch: answers, what went into their encoders and came out, and what each sampled from."""
    seen, choices, kept = SimpleNamespace(theirs={}, ours={}), Choices(), []
    choice = np.random.choice

    def watched_subset(*args, **named):
        kept.append(choice(*args, **named))
        return kept[-1]

    def their_boxes(module, args, out):
        seen.proposals = [x.proposal_boxes.tensor.clone() for x in out[0]]

    def our_boxes(module, args, out):
        seen.found_proposals = out[0], out[1]

    def their_hook(module, args, named, out):
        x, pad = args[0].transpose(0, 1), named["src_key_padding_mask"]
        seen.pad = pad
        seen.theirs = {"tokens": x, "positions": named["pos"].transpose(0, 1), "encoded": out.transpose(0, 1)}

    def our_hook(module, args, out):
        seen.ours = {"tokens": args[0], "positions": args[1], "encoded": out}
        seen.our_pad = args[2]

    def our_kept(taken_BR):
        # they keep a share, in an order of their own: objects' regions first, both in the order they were drawn
        return torch.stack([row.clone() for row in forced_kept(taken_BR)])

    def forced_kept(taken_BR):
        for row, order, subset in zip(taken_BR, seen.order, kept, strict=True):
            yield torch.zeros_like(row).index_fill(0, order[torch.from_numpy(subset)], True)

    seen.order = []
    rpn = importlib.import_module("detectron2.modeling.proposal_generator.rpn")
    subsample_labels = rpn.subsample_labels

    def ordered(labels, *args):
        found = choices.watched(subsample_labels, "regions")(labels, *args)
        seen.order.append(torch.cat(found))
        return found

    bgr = [{**item, "image": item["image"].flip(0)} for item in items]
    with ExitStack() as held:
        for hook in (
            peer.proposal_generator.register_forward_hook(their_boxes),
            ours.encoder.rpn.register_forward_hook(our_boxes),
            peer.roi_heads.box_head.transformer_encoder.register_forward_hook(their_hook, with_kwargs=True),
            ours.encoder.encoder.register_forward_hook(our_hook),
        ):
            held.callback(hook.remove)
        held.enter_context(computing_in(dtype))
        held.enter_context(EventStorage(0))
        held.enter_context(mock.patch.object(np.random, "choice", watched_subset))
        held.enter_context(mock.patch.object(rpn, "subsample_labels", choices.watched(subsample_labels, "anchors")))
        held.enter_context(mock.patch.object(packages()[1].rcnn_heads, "subsample_labels", ordered))
        np.random.seed(3)
        torch.manual_seed(3)
        seen.answer = peer.train(training)(bgr)
        held.enter_context(mock.patch.object(ours.encoder.rpn, "sample", choices.forced("anchors")))
        held.enter_context(mock.patch.object(ours.encoder.sampler, "sample", choices.forced("regions")))
        held.enter_context(mock.patch.object(ours.encoder.sampler, "kept", our_kept))
        seen.found = ours.train(training)(items)
    seen.choices, seen.kept = choices, kept
    return seen


def compare(name, seen, tolerance):
    assert torch.equal(seen.pad.sum(1), seen.our_pad.sum(1))
    # a set has no order: theirs is objects' regions first, ours is that of the proposals; the position code tells
    for b in range(len(seen.pad)):
        there, here = ~seen.pad[b], ~seen.our_pad[b]
        sides = (seen.theirs, there), (seen.ours, here)
        theirs, ours = ({what: value[b][at] for what, value in side.items()} for side, at in sides)
        gap = (theirs["positions"][:, None] - ours["positions"]).abs().amax(-1)
        index = gap.argmin(1)
        assert len(index.unique()) == len(index)
        for what, expected in theirs.items():
            scale = max(1.0, float(expected.detach().abs().max()))
            within(f"{name}: {what}", far(ours[what][index], expected) / scale, tolerance)


def compare_proposals(name, seen, tolerance):
    found, valid = seen.found_proposals
    for own, mask, expected in zip(found, valid, seen.proposals, strict=True):
        assert mask.sum() == len(expected) > PROPOSALS / 2
        within(f"{name}: proposals", far(own[mask], expected) / 250, tolerance)


def test_the_file_is_read_whole_and_written_back(written):
    peer, file, _ = written
    state = torch.load(file)["model"]
    _, ours = pair(written, torch.float32)
    written_back(ours, state, 495)


@PRECISION
def test_training(written, dtype, tolerance):
    """The same proposals, regions and anchors, tokens, encoder, all four losses, all gradients."""
    name = f"TSP-RCNN, {str(dtype)[-7:]}"
    peer, ours = pair(written, dtype)
    seen = run(peer, ours, around(written[2], dtype), dtype, training=True)
    compare_proposals(name, seen, tolerance)
    assert [len(x) < PROPOSALS for x in seen.kept] == [True, True]
    assert all((positive.sum(1) > 4).all() for positive, _ in seen.choices.own["regions"])  # nothing had to be added
    compare(name, seen, tolerance)
    found, expected = seen.found, seen.answer
    assert expected["loss_obj"] > 0 and expected["loss_box_reg"] > 0
    parts = {
        "loss_rpn_cls": found["loss_class_token"],
        "loss_rpn_loc": found["loss_bbox_token"],
        "loss_obj": found["loss_class"],
        "loss_box_reg": found["loss_bbox"] + found["loss_giou"],
    }
    assert expected.keys() == parts.keys()
    for key, own in parts.items():
        within(f"{name}: losses", relative(own, expected[key]), tolerance)
    if dtype == torch.float64:
        for side in (found, expected):
            sum(side.values()).backward()
        grads = to_layout({k: p.grad for k, p in ours.named_parameters() if p.grad is not None}, "tsp")
        theirs = {k: p.grad for k, p in peer.named_parameters() if p.grad is not None}
        assert len(theirs) > 150
        for key, grad in theirs.items():
            within(f"{name}: gradients", far(grads[key], grad) / max(float(grad.abs().max()), 1e-6), 1e-9)
        peer.zero_grad()


@PRECISION
def test_inference(written, dtype, tolerance):
    """The same boxes after suppression."""
    name = f"TSP-RCNN, {str(dtype)[-7:]}"
    peer, ours = pair(written, dtype)
    items = around(written[2], dtype)
    with torch.no_grad():
        seen = run(peer, ours, items, dtype, training=False)
    compare_proposals(name, seen, tolerance)
    compare(name, seen, tolerance)
    for expected, found, (h, w) in zip(seen.answer, seen.found, SIZES, strict=True):
        expected, found = expected["instances"], found["instances"]
        assert len(found) == len(expected) > 50
        assert torch.equal(found.pred_classes, expected.pred_classes)
        within(f"{name}: scores", far(found.scores, expected.scores), tolerance)
        gap = (found.pred_boxes.tensor - expected.pred_boxes.tensor) / torch.tensor([w, h, w, h])
        within(f"{name}: boxes", float(gap.abs().max()), tolerance)
