"""Our DINO against the functional reading in ``reference_dino.py``, narrow, in fp64 and fp32, denoising included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.criterion import detr_rules
from detrex_ext.runtime import instantiate

from . import reference_dino
from .models import batch, compare_gradients, compare_losses, narrow_dims, narrow_model, truth
from .reference_backbone import prepare
from .weights import canonical, model_shapes, random_state

SIZES, OBJECTS = [(130, 171), (156, 99)], [4, 3]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}
NUMBER, FLIP, SCALE = 9, 0.5, 1.0


def setup_case(variant, dtype, parity_padding=True, rules=None):
    dims = narrow_dims(variant)
    state = random_state(model_shapes(dims), dims.refine, seed=3, dtype=dtype)
    model = narrow_model(dims, dtype, parity_padding, rules)
    model.queries.number, model.queries.label_noise_ratio, model.queries.box_noise_scale = NUMBER, FLIP, SCALE
    assert load_state(model, state, strict=True).complete
    return dims, state, model


def read(model, dims, state, items, masked, dtype, noised=None):
    """The reference's answer to a batch; the toy backbone is the only code both sides share."""
    images, pad = prepare([x["image"] for x in items], dtype)
    with torch.no_grad():
        features = model.backbone(images)
    return reference_dino.forward(state, dims, features, pad if masked else torch.zeros_like(pad), noised)


def draw(dims, items, dtype, seed=11):
    torch.manual_seed(seed)
    return reference_dino.noise(*truth(items, dtype), dims.classes, NUMBER, FLIP, SCALE)


def gap(sets, logits, boxes):
    assert [s.stage for s in sets] == list(range(len(logits)))
    pairs = [(s.logits_BQK, a) for s, a in zip(sets, logits, strict=True)]
    pairs += [(s.boxes_BQ4, a) for s, a in zip(sets, boxes, strict=True)]
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("variant", ["dino", "dino_5scale"])
@pytest.mark.parametrize("mode", ["train", "eval as detrex", "eval masked"])
def test_all_stages(variant, images, mode, dtype):
    dims, state, model = setup_case(variant, dtype, parity_padding=mode == "eval as detrex")
    model.train(mode == "train")
    items = batch(SIZES, OBJECTS, dims.classes)[:images]
    noised = draw(dims, items, dtype) if mode == "train" else None
    main, dn = read(model, dims, state, items, mode != "eval as detrex", dtype, noised)
    torch.manual_seed(11)
    with torch.no_grad():
        sets = model.forward_sets(items)
    by = {group: [s for s in sets if s.group == group] for group in ("main", "dn", "enc")}
    assert gap(by["main"], main.logits, main.boxes) < TOLERANCE[dtype]
    assert bool(by["dn"]) == bool(by["enc"]) == (mode == "train")
    if mode == "train":
        assert noised.groups == NUMBER // 4 and noised.size == 2 * noised.groups * 4
        assert gap(by["dn"], dn.logits, dn.boxes) < TOLERANCE[dtype]
        (enc,) = by["enc"]
        assert (enc.logits_BQK - main.enc_logits).abs().max() < TOLERANCE[dtype]
        assert (enc.boxes_BQ4 - main.enc_boxes).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize(("dtype", "loss_gap", "grad_gap"), [(torch.float64, 1e-10, 1e-9), (torch.float32, 1e-5, 1e-4)])
@pytest.mark.parametrize("objects", [[4, 3], [0, 3], [0, 0], [5], [12, 1]], ids=str)
def test_losses_and_gradients(objects, dtype, loss_gap, grad_gap):
    dims, state, model = setup_case("dino", dtype, rules=detr_rules(("main", "enc", "dn")))
    items = batch(SIZES[: len(objects)], objects, dims.classes)
    noised = draw(dims, items, dtype)
    leaves = {canonical(name, dims.refine): value.requires_grad_() for name, value in state.items()}
    main, dn = read(model, dims, state, items, True, dtype, noised)
    expected = reference_dino.losses(main, dn, noised, *truth(items, dtype))
    torch.manual_seed(11)
    found = model.train()(items)
    compare_losses(found, expected, loss_gap)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    reference = {name: leaves[canonical(name, dims.refine)].grad for name in state}
    compare_gradients(model, reference, dims.decoder_layers, grad_gap, grad_gap)


@pytest.mark.parametrize("variant", ["dino", "dino_5scale"])
def test_written_layout_is_the_one_that_was_read(variant):
    _, state, model = setup_case(variant, torch.float32)
    written = to_layout(model, "detrex")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], value) for name, value in state.items())


@pytest.mark.parametrize("alias", ["inside", "outside"])
def test_one_name_of_each_tensor_is_enough(alias):
    _, state, model = setup_case("dino", torch.float32)
    inside = [k for k in state if k.startswith(("transformer.decoder.class_", "transformer.decoder.bbox_"))]
    dropped = inside if alias == "outside" else [k.removeprefix("transformer.decoder.") for k in inside]
    again = narrow_model(narrow_dims("dino"), torch.float32, True)
    assert load_state(again, {k: v for k, v in state.items() if k not in dropped}, strict=True).complete
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize(("name", "dump"), [("4scale", "dino_r50"), ("5scale", "dino_r50_5scale")])
def test_written_names_and_shapes_of_the_published_models_are_those_of_detrex(name, dump):
    with torch.device("meta"):
        model = instantiate(load_config(f"dino_r50_{name}_12ep", overrides=["model.num_classes=80"]).model)
    shapes = {k: list(v.shape) for k, v in to_layout(model, "detrex").items()}
    assert shapes == json.loads((Path(__file__).parent / "keys" / f"{dump}.json").read_text())


def test_a_model_without_denoising_reads_the_same_file():
    dims, state, model = setup_case("dino", torch.float32)
    alone = narrow_model(dims, torch.float32, True)
    alone.queries = alone.queries.source
    assert load_state(alone, state, strict=True).complete
    items = batch(SIZES, OBJECTS, dims.classes)
    with torch.no_grad():
        a, b = (m.eval().forward_sets(items)[-1] for m in (model, alone))
    assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)
