"""Our DETR and DAB-DETR against the functional reading in ``reference_dense.py``, narrow, in fp64 and fp32."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.checkpoint import load_state, to_layout
from detrex_ext.config import load_config
from detrex_ext.criterion import detr_rules
from detrex_ext.modeling.queries import DenoisingQueries
from detrex_ext.runtime import instantiate

from . import reference_dense
from .models import batch, compare_gradients, compare_losses, narrow_dense, truth
from .reference_backbone import prepare
from .reference_dense import DENSE, dumped_shapes, narrow_shapes
from .reference_loss import losses
from .weights import canonical, random_state

SIZES, OBJECTS = [(130, 171), (156, 99)], [4, 3]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
PUBLISHED = {
    "detr_r50_300ep": ("detr_r50", "detrex"),
    "dab_detr_r50_50ep": ("dab_detr_r50", "detrex"),
    "dab_detr_r50_3patterns_50ep": ("dab_detr_r50_3patterns", "detrex"),
    "dab_detr_r50_dc5_50ep": ("dab_detr_r50_dc5", "detrex_dc5"),
}


def setup_case(variant, dtype, parity_padding=True):
    dims = DENSE[variant]
    state = random_state(narrow_shapes(dims), refine=True, seed=3, dtype=dtype)
    model = narrow_dense(dims, dtype, parity_padding, detr_rules(("main",), softmax=not dims.dab))
    assert load_state(model, state, strict=True).complete
    return dims, state, model


def read(model, dims, state, items, masked, cross_masked, dtype):
    """The reference's answer to a batch; the toy backbone is the only code both sides share."""
    images, pad = prepare([x["image"] for x in items], dtype)
    with torch.no_grad():
        (image_map,) = model.backbone(images).values()
    return reference_dense.forward(state, dims, image_map, pad if masked else torch.zeros_like(pad), cross_masked)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("variant", DENSE)
@pytest.mark.parametrize("mode", ["train as detrex", "train masked", "eval as detrex", "eval masked"])
def test_all_stages(variant, images, mode, dtype):
    as_detrex = mode.endswith("detrex")
    dims, state, model = setup_case(variant, dtype, parity_padding=as_detrex)
    model.train(mode.startswith("train"))
    items = batch(SIZES, OBJECTS, dims.classes)[:images]
    with torch.no_grad():
        sets = model.forward_sets(items)
    reading = read(model, dims, state, items, mode != "eval as detrex", not as_detrex, dtype)
    assert [(s.stage, s.group, s.softmax) for s in sets] == [(i, "main", not dims.dab) for i in range(3)]
    assert sets[0].logits_BQK.shape[1] == dims.queries * max(1, dims.patterns)
    for s in sets:
        assert (s.logits_BQK - reading.logits[s.stage]).abs().max() < TOLERANCE[dtype]
        assert (s.boxes_BQ4 - reading.boxes[s.stage]).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize(("dtype", "loss_gap", "grad_gap"), [(torch.float64, 1e-10, 1e-9), (torch.float32, 1e-5, 1e-4)])
@pytest.mark.parametrize("objects", [[4, 3], [0, 3], [0, 0], [5]], ids=str)
@pytest.mark.parametrize("variant", DENSE)
def test_losses_and_gradients(variant, objects, dtype, loss_gap, grad_gap):
    dims, state, model = setup_case(variant, dtype)
    items = batch(SIZES[: len(objects)], objects, dims.classes)
    found = model.train()(items)
    leaves = {canonical(name, True): value.requires_grad_() for name, value in state.items()}
    judge = losses if dims.dab else reference_dense.softmax_losses
    expected = judge(read(model, dims, state, items, True, False, dtype), *truth(items, dtype))
    compare_losses(found, expected, loss_gap)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    reference = {name: leaves[canonical(name, True)].grad for name in state}
    compare_gradients(model, reference, dims.decoder_layers, grad_gap, grad_gap)


def test_padding_matters():
    """The masks differ in what they do, so that the tests above can tell them apart."""
    dims, state, model = setup_case("dab", torch.float64)
    items = batch(SIZES, OBJECTS, dims.classes)
    kinds = [(False, False), (True, False), (True, True)]
    answers = [read(model, dims, state, items, *masks, torch.float64).logits[-1] for masks in kinds]
    assert min((a - b).abs().max() for i, a in enumerate(answers) for b in answers[:i]) > 1e-3


@pytest.mark.parametrize("variant", DENSE)
def test_written_layout_is_the_one_that_was_read(variant):
    _, state, model = setup_case(variant, torch.float32)
    written = to_layout(model, "detrex")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "dropped", [("bbox_embed.", ".layers.0.1."), ("transformer.decoder.bbox_embed.", ".activation.")], ids=str
)
def test_one_name_of_each_shared_tensor_is_enough(dropped):
    """Averaged states of detrex lack the first kind."""
    dims, state, model = setup_case("dab", torch.float32)
    fewer = {k: v for k, v in state.items() if not k.startswith(dropped[0]) and dropped[1] not in k}
    assert len(fewer) == len({canonical(k, True) for k in state})
    other = narrow_dense(dims, torch.float32, True)
    assert load_state(other, {f"module.{k}": v for k, v in fewer.items()}, strict=True).complete
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


def test_denoising_is_training_only_and_not_written():
    dims, state, model = setup_case("dab", torch.float32)
    model.queries = DenoisingQueries(model.queries, dims.classes, dims.channels)
    written = to_layout(model, "detrex")
    assert written.keys() == state.keys()
    assert torch.equal(written["anchor_box_embed.weight"], state["anchor_box_embed.weight"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_keys_and_shapes(name):
    dump, layout = PUBLISHED[name]
    cfg = load_config(name).model
    cfg.num_classes = 80
    with torch.device("meta"):
        model = instantiate(cfg)
    assert {k: tuple(v.shape) for k, v in to_layout(model, layout).items()} == dumped_shapes(dump)
