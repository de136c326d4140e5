"""Predictions with sets: one public pass, and strategies that are asked to act in an evaluation."""

from __future__ import annotations

import pytest
import torch
from contract.hosts import HOSTS, LAYERS

from detrex_ext.strategies import DivideAndConquer, QueryRecollection
from detrex_ext.testing import example_batch


def tensors(predictions):
    return [x for p in predictions for x in (p["instances"].pred_boxes.tensor, p["instances"].scores)]


@pytest.mark.parametrize("host", ["deformable, two-stage, dn", "detr", "adamixer"])
@torch.no_grad()
def test_predictions_with_sets_are_those_without_from_one_pass(host):
    model = HOSTS[host]()
    model.use({"sqr": QueryRecollection()})
    model.eval()
    batch, passes = example_batch(model.num_classes), []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    predictions, sets = model.predict_sets(batch)
    assert len(passes) == 1
    assert all(torch.equal(a, b) for a, b in zip(tensors(predictions), tensors(model(batch)), strict=True))
    assert [(s.group, s.path) for s in sets if s.stage >= 0] == [("main", "plain")] * LAYERS
    for a, b in zip(sets, model.forward_sets(batch), strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)
    with pytest.raises(RuntimeError, match="training mode"):
        model.train().predict_sets(batch)


@torch.no_grad()
def test_strategies_act_in_an_evaluation_where_they_are_named():
    """On the layers that an evaluation runs, without a change of mode, and not in the next pass."""
    model = HOSTS["deformable"]().eval()
    model.decoder.eval_order = (2, 0, 1, 2)
    modes, batch = [], example_batch(model.num_classes)
    model.decoder.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    bare = model.forward_sets(batch)
    _, sets = model.predict_sets(batch, [DivideAndConquer()])
    assert modes == [False, False]
    aux = [s for s in sets if s.path == "aux"]
    plain = [s for s in sets if s.path == "plain"]
    assert [s.stage for s in aux] == [s.stage for s in plain] == [0, 1, 2, 3]
    for a, b in zip(plain, bare, strict=True):
        torch.testing.assert_close(a.logits_BQK, b.logits_BQK, rtol=0, atol=1e-5)
    model.use({"dac": DivideAndConquer()})
    assert not [s for s in model.forward_sets(batch) if s.path == "aux"]
    assert not [s for s in model.forward_sets(batch, []) if s.path == "aux"]


@torch.no_grad()
def test_stages_one_by_one_are_the_decoder():
    for host in ("adamixer", "dab"):
        model = HOSTS[host]().eval()
        images, _ = model.inputs(example_batch(model.num_classes))
        q, mem, _ = model.encode(images.images_B3HW, images.valid_hw_B2)
        sets, prepared = model.decoder(q, mem), model.decoder.prepare(mem)
        for layer, s in enumerate(sets):
            logits, boxes, q = model.decoder.stage(layer, q, prepared)
            assert torch.equal(logits, s.logits_BQK) and torch.equal(boxes, s.boxes_BQ4)
