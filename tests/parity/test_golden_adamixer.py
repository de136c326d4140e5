"""Our AdaMixer against the reading of its formulas in ``reference_adamixer.py``, narrow."""

from __future__ import annotations

import pytest
import torch
import torchvision

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.runtime import instantiate
from detrex_ext.structures import Features

from . import reference_adamixer as reference
from .models import batch
from .models_adamixer import OBJECTS, SIZES, compare_losses, features_of, gradient_gap, objects_of, our_model, worst

DIMS = reference.NARROW
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("masked", [False, True], ids=["as published", "masked"])
def test_all_stages(masked, images, dtype):
    state = reference.random_state(DIMS, dtype=dtype)
    model = our_model(DIMS, state, dtype, mask_padding=masked).eval()
    items = batch(SIZES, OBJECTS, DIMS.classes)[:images]
    features, sizes = features_of(model, items)
    padded = model.preprocess(items)
    pads = Features.from_maps(features, padded.valid_hw_B2, tuple(padded.images_B3HW.shape[2:])).pads
    with torch.no_grad():
        sets = model.forward_sets(items)
        stages = reference.forward(state, DIMS, features, sizes, pads if masked else None)
        other = reference.forward(state, DIMS, features, sizes, None if masked else pads)
    assert worst(sets, stages, sizes) < TOLERANCE[dtype]
    assert worst(sets, other, sizes) > 1e-2  # so that the above can tell them apart


@pytest.mark.parametrize("objects", [[4, 3], [0, 3], [0, 0], [5]], ids=str)
def test_losses_and_gradients(objects):
    state = reference.random_state(DIMS, seed=1)
    model = our_model(DIMS, state, torch.float64)
    items = batch(SIZES[: len(objects)], objects, DIMS.classes)
    features, sizes = features_of(model, items)
    leaves = {k: v.requires_grad_() for k, v in state.items()}
    stages = reference.forward(leaves, DIMS, features, sizes)
    expected = reference.losses(stages, sizes, *objects_of(items, torch.float64))
    compare_losses(model, items, expected, 1e-9)
    assert gradient_gap(model, {k: v.grad for k, v in leaves.items()}) < 1e-9


def test_written_layout_is_the_one_that_was_read():
    state = reference.random_state(DIMS, dtype=torch.float32)
    written = to_layout(our_model(DIMS, state, torch.float32), "mmdet")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], value) for name, value in state.items())


def test_second_values_of_mmcvs_averaging_are_left_out():
    state = reference.random_state(DIMS, dtype=torch.float32)
    model = our_model(DIMS, state, torch.float32)
    report = load_state(model, state | {"ema_" + k.replace(".", "_"): v + 1 for k, v in state.items()}, strict=True)
    assert report.complete and len([k for k in report.dropped if k.startswith("ema_")]) == len(state)
    assert all(torch.equal(to_layout(model, "mmdet")[name], value) for name, value in state.items())


def test_published_model_takes_the_published_names():
    """All of them: the backbone's are torchvision's."""
    with torch.device("meta"):
        model = instantiate(load_config("adamixer_r50_12ep", overrides=["model.num_classes=80"]).model)
        backbone = torchvision.models.resnet50().state_dict()
        state = {name: torch.empty(shape) for name, shape in reference.shapes(reference.Dims()).items()}
    state |= {f"backbone.{k}": v for k, v in backbone.items() if not k.startswith("fc.")}
    report = load_state(model, state, strict=True)
    assert report.complete and report.layout == "mmdetection AdaMixer"
    written = to_layout(model, "mmdet")
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in state.items()}
