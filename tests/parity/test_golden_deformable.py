"""Our Deformable-DETR against the functional reading in ``reference.py``, narrow, in fp64 and fp32."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.criterion import detr_rule
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.encoders.flatten import to_memory
from detrex_ext.modeling.queries.two_stage import proposal_anchors
from detrex_ext.structures import Features

from . import reference
from .models import VARIANTS, batch, compare_gradients, compare_losses, narrow_dims, narrow_model, truth
from .reference_backbone import prepare, resnet50
from .reference_loss import losses
from .weights import backbone_shapes, canonical, model_shapes, random_state

SIZES, OBJECTS = [(130, 171), (156, 99)], [4, 3]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def setup_case(variant, dtype, parity_padding=True, rules=None):
    dims = narrow_dims(variant)
    state = random_state(model_shapes(dims), dims.refine, seed=3, dtype=dtype)
    model = narrow_model(dims, dtype, parity_padding, rules)
    assert load_state(model, state, strict=True).complete
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


def detrex_rules(dims):
    rules = {"main": detr_rule(when={"group": "main"})}
    return rules | ({"enc": detr_rule(when={"group": "enc"}, objectness=True)} if dims.two_stage else {})


@pytest.mark.parametrize(("dtype", "loss_gap", "grad_gap"), [(torch.float64, 1e-10, 1e-9), (torch.float32, 1e-5, 1e-4)])
@pytest.mark.parametrize("objects", [[4, 3], [0, 3], [0, 0], [5]], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients(variant, objects, dtype, loss_gap, grad_gap):
    dims, state, model = setup_case(variant, dtype, rules=detrex_rules(narrow_dims(variant)))
    items = batch(SIZES[: len(objects)], objects, dims.classes)
    found = model.train()(items)
    leaves = {canonical(name, dims.refine): value.requires_grad_() for name, value in state.items()}
    expected = losses(read(model, dims, state, items, masked=True, dtype=dtype), *truth(items, dtype))
    compare_losses(found, expected, loss_gap)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    reference = {name: leaves[canonical(name, dims.refine)].grad for name in state}
    compare_gradients(model, reference, dims.decoder_layers, grad_gap, grad_gap)


def test_padding_matters():
    """The two evaluation modes differ, so that the test above can tell them apart."""
    dims, state, model = setup_case("plain", torch.float64)
    items = batch(SIZES, OBJECTS, dims.classes)
    as_detrex, masked = (read(model, dims, state, items, m, torch.float64) for m in (False, True))
    assert (as_detrex.logits[-1] - masked.logits[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_layout_is_the_one_that_was_read(variant):
    _, state, model = setup_case(variant, torch.float32)
    written = to_layout(model, "detrex")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], value) for name, value in state.items())


@pytest.mark.parametrize("grad", [False, True], ids=["fused norm", "folded norm"])
def test_resnet50(grad):
    state = random_state(backbone_shapes(), refine=True, seed=5, dtype=torch.float64)
    model = ResNet(50).double()
    assert model.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items()}, strict=True)
    x = torch.randn(2, 3, 61, 83, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        ours = model(x)
    theirs = resnet50(state, x)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert value.std() > 0.1
        assert (ours[name] - value).abs().max() < 1e-10 * value.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [50, 51, 61, 77])
def test_proposals_on_the_border_of_validity(width, dtype):
    """With 50 valid cells the outermost centers are at 0.01 and 0.99 exactly and make no proposal, however padded."""
    pad = torch.zeros(1, 60, width, dtype=torch.bool)
    pad[:, 50:], pad[:, :, 50:] = True, True
    features = Features([torch.zeros(1, 1, 60, width, dtype=dtype)], [pad], (8,), torch.tensor([[400.0, 400.0]]))
    valid = proposal_anchors(to_memory(features), 0.05)[1].view(60, width)
    expected = torch.zeros(60, width, dtype=torch.bool)
    expected[1:49, 1:49] = True
    assert torch.equal(valid, expected)
