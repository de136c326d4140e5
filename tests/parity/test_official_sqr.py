"""Query recollection against the official one; ``DETREX_EXT_SQR`` names a checkout of Fangyi-Chen/SQR."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.strategies import QueryRecollection

from .forced import computing_in
from .gaps import relative, within
from .models import batch, narrow_dims, narrow_model
from .models_adamixer import features_of, gradient_gap, objects_of, our_model, worst
from .peer_sqr import ROOT, VARIABLE, RecollectingAdaMixer, RecollectingDeformable
from .reference_adamixer import NARROW, random_state
from .weights import model_shapes
from .weights import random_state as random_weights

if ROOT is None or not (ROOT / "mmdet/models/roi_heads/adamixer_decoder_Qrecycle.py").is_file():
    pytest.skip(f"comparison with SQR needs {VARIABLE} to name a checkout of it", allow_module_level=True)

SIZES, OBJECTS = [(120, 171), (150, 99), (96, 140)], [4, 3, 2]
PRECISION = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
FORM = pytest.mark.parametrize("fast", [False, True], ids=["slow form", "fast form"])


def adamixer(dtype, stages=6, seed=1, **options):
    """The official AdaMixer and ours with the same weights, ours under recollection."""
    dims = replace(NARROW, stages=stages)
    state = random_state(dims, seed, dtype)
    official = RecollectingAdaMixer(dims).to(dtype)
    official.load_state_dict(state, strict=True)
    ours = our_model(dims, state, dtype)
    ours.preprocess.channels_last = False  # on a CPU torch's group norm rounds several times more coarsely with it
    ours.use({"sqr": QueryRecollection(**options)})
    return official, ours.train()


def both(official, ours, images, dtype, fast, **options):
    """All sets of both on a batch of these many images."""
    items = batch(SIZES[:images], OBJECTS[:images], NARROW.classes)
    features, sizes = features_of(ours, items)
    with computing_in(dtype):
        found, losses = official.recollect(features, sizes, objects_of(items, dtype), fast, **options)
    return items, ours.forward_sets(items), found, sizes, losses


def far(sets, found, sizes):
    """Largest difference of each set, in their order."""
    assert len(sets) == len(found)
    return [worst([replace(s, stage=0)], [pair], sizes) for s, pair in zip(sets, found, strict=True)]


@FORM
@PRECISION
def test_adamixer_all_sets(dtype, tolerance, fast):
    _, sets, found, sizes, _ = both(*adamixer(dtype), 2, dtype, fast)
    assert [s.stage for s in sets] == [i for i, n in enumerate((1, 2, 3, 5, 8, 13)) for _ in range(n)]
    within(f"SQR, AdaMixer, {str(dtype)[-7:]}: logits and boxes", max(far(sets, found, sizes)), tolerance)


SCHEDULES = {
    "seven stages": (7, {}, ([0, 0, 1, 2, 4, 7, 12], [1, 2, 4, 7, 12, 20, 33]), 53),
    "from stage 3": (6, {"start_stage": 3}, ([0, 1, 2, 2, 3, 4], [1, 2, 3, 4, 6, 9]), 13),
    "dense": (5, {"window": None}, ([0] * 5, [1, 2, 4, 8, 16]), 31),
}


@pytest.mark.parametrize(("stages", "options", "slices", "count"), SCHEDULES.values(), ids=list(SCHEDULES))
def test_adamixer_other_schedules(stages, options, slices, count):
    official, ours = adamixer(torch.float64, stages, **options)
    _, sets, found, sizes, _ = both(official, ours, 2, torch.float64, True, slices=slices)
    assert len(sets) == count
    within("SQR, AdaMixer, float64: logits and boxes", max(far(sets, found, sizes)), 1e-12)


@FORM
def test_adamixer_losses_and_gradients(fast):
    official, ours = adamixer(torch.float64, stages=4, seed=2)
    items, _, _, _, expected = both(official, ours, 2, torch.float64, fast)
    found = ours(items)
    names = {"loss_cls": "class", "loss_bbox": "bbox", "loss_iou": "giou"}
    for stage in range(4):
        for theirs, term in names.items():
            own = [k for k in found.stats if k.startswith(f"stage{stage}/loss_{term}")]
            assert len(own) == 1 + (stage > 0)
            gap = relative(sum(found.stats[k] for k in own), expected[f"stage{stage}_{theirs}"])
            within("SQR, AdaMixer, float64: losses", gap, 1e-12)
    sum(found.values()).backward()
    sum(v for k, v in expected.items() if "loss" in k).backward()
    theirs = {k: p.grad for k, p in official.named_parameters()}
    within("SQR, AdaMixer, float64: gradients", gradient_gap(ours, theirs), 1e-9)


@pytest.mark.parametrize("images", [1, 3])
def test_the_fast_form_of_the_original_holds_for_two_images_only(images):
    """It cuts what a stage made every two images: then sets are lost, or queries meet other images from stage 2 on."""
    official, ours = adamixer(torch.float64)
    _, sets, slow, sizes, _ = both(official, ours, images, torch.float64, fast=False)
    _, _, fast, _, _ = both(official, ours, images, torch.float64, fast=True)
    assert max(far(sets, slow, sizes)) < 1e-12
    if images == 1:
        assert len(fast) == 10  # of 32
    else:
        gaps = far(sets, fast, sizes)
        assert max(gaps[:5]) < 1e-12 and gaps[-1] > 0.1  # the plain path's among them
        assert sum(gap > 0.1 for gap in gaps) == 21


def deformable(dtype):
    """The official Deformable-DETR and ours with the same weights and no encoder, ours under recollection."""
    dims = replace(narrow_dims("plain"), encoder_layers=0, decoder_layers=6)
    state = random_weights(model_shapes(dims), dims.refine, seed=3, dtype=dtype)
    state["transformer.reference_points.weight"] *= 6.0  # references at the border too, where logits are clamped
    ours = narrow_model(dims, dtype, parity_padding=False, inverse_sigmoid_eps=1e-5)  # as mmdetection clamps them
    assert load_state(ours, state, strict=True).complete
    ours.use({"sqr": QueryRecollection()})
    return RecollectingDeformable(dims, state), ours.train()


@FORM
@PRECISION
@pytest.mark.parametrize("images", [2, 3])
def test_deformable_all_sets_and_gradients(images, dtype, tolerance, fast):
    official, ours = deformable(dtype)
    items = batch(SIZES[:images], OBJECTS[:images], 7)
    sets = ours.forward_sets(items)
    pixels = ours.preprocess(items).images_B3HW
    maps = ours.neck(ours.backbone(pixels))
    with computing_in(dtype):
        found = official(maps, tuple(pixels.shape[-2:]), [tuple(x["image"].shape[1:]) for x in items], fast)
    assert len(sets) == len(found) == 32
    pairs = [((s.logits_BQK, s.boxes_BQ4), pair) for s, pair in zip(sets, found, strict=True)]
    gap = max(float((a - b).detach().abs().max()) for o, t in pairs for a, b in zip(o, t, strict=True))
    within(f"SQR, Deformable-DETR, {str(dtype)[-7:]}: logits and boxes", gap, tolerance)
    if dtype == torch.float64:
        for side in (0, 1):
            sum(pair[side][0].sin().sum() + pair[side][1].square().sum() for pair in pairs).backward()
        grads = to_layout({k: p.grad for k, p in ours.named_parameters()}, "detrex")
        compared = {k: (p.grad, grads[k]) for k, p in official.leaves.items() if p.grad is not None}
        assert len(compared) == 6 * 22 + 11
        for theirs, own in compared.values():
            gap = float((own - theirs).abs().max() / theirs.abs().max())
            within("SQR, Deformable-DETR, float64: gradients", gap, 1e-9)
