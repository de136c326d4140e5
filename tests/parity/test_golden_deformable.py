"""Our Deformable-DETR against the functional reading in ``reference.py``, narrow, in fp64 and fp32."""

from __future__ import annotations

import pytest
import torch

from . import reference
from .models import VARIANTS, batch, load, narrow_dims, narrow_model
from .reference_backbone import prepare
from .weights import model_shapes, random_state

SIZES, OBJECTS = [(130, 171), (156, 99)], [4, 3]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def setup_case(variant, dtype, parity_padding=True, rules=None):
    dims = narrow_dims(variant)
    state = random_state(model_shapes(dims), dims.refine, seed=3, dtype=dtype)
    model = narrow_model(dims, dtype, parity_padding, rules)
    load(model, state, dims)
    return dims, state, model


def read(model, dims, state, items, masked, dtype):
    """The reference's answer to a batch; the toy backbone is the only code both sides share."""
    images, pad = prepare([x["image"] for x in items], dtype)
    with torch.no_grad():
        features = model.backbone(images)
    return reference.forward(state, dims, features, pad if masked else torch.zeros_like(pad))


def worst(sets, reading):
    """Largest difference of any logit or box of any stage, the encoder's set included where there is one."""
    main = [s for s in sets if s.group == "main"]
    assert [s.stage for s in main] == list(range(len(reading.logits)))
    enc = [s for s in sets if s.group == "enc"]
    ours = [(s.logits_BQK, s.boxes_BQ4) for s in main + enc]
    theirs = [*zip(reading.logits, reading.boxes, strict=True), (reading.enc_logits, reading.enc_boxes)][: len(ours)]
    return max(float((a - b).abs().max()) for o, t in zip(ours, theirs, strict=True) for a, b in zip(o, t, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["train", "eval as detrex", "eval masked"])
def test_all_stages(variant, images, mode, dtype):
    dims, state, model = setup_case(variant, dtype, parity_padding=mode == "eval as detrex")
    model.train(mode == "train")
    items = batch(SIZES, OBJECTS, dims.classes)[:images]
    with torch.no_grad():
        sets = model.forward_sets(items)
    reading = read(model, dims, state, items, masked=mode != "eval as detrex", dtype=dtype)
    assert worst(sets, reading) < TOLERANCE[dtype]
    assert bool([s for s in sets if s.group == "enc"]) == (dims.two_stage and mode == "train")


def test_padding_matters():
    """The two evaluation modes differ, so that the test above can tell them apart."""
    dims, state, model = setup_case("plain", torch.float64)
    items = batch(SIZES, OBJECTS, dims.classes)
    as_detrex, masked = (read(model, dims, state, items, m, torch.float64) for m in (False, True))
    assert (as_detrex.logits[-1] - masked.logits[-1]).abs().max() > 1e-3
