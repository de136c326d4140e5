"""The losses of validation data: the training's own on the same images, for every host."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from contract.hosts import ALL_HOSTS
from data_sets import coco, write

from detrex_ext.criterion import SetCriterion
from detrex_ext.data.ground_truth import read_ground_truth
from detrex_ext.engine.best_metric import check_metric
from detrex_ext.engine.evaluation import loss_evaluators, loss_names
from detrex_ext.errors import UserError
from detrex_ext.evaluation import inference_on_dataset
from detrex_ext.evaluation.losses import LossEvaluator
from detrex_ext.matching import FCOSMatcher, OneToManyMatcher, RoIMatcher
from detrex_ext.runtime import Boxes, Instances, comm


@pytest.fixture
def truth(tmp_path):
    """Three images of 64 x 96; the second without objects, the third with a crowd region and a box over its border."""
    found = coco(3, 4, (64, 96))
    del found["annotations"][1]
    found["annotations"].append({**found["annotations"][1], "id": 1, "iscrowd": 1})
    found["annotations"].append({**found["annotations"][1], "id": 9, "bbox": [80.0, 40.0, 40.0, 40.0]})
    return read_ground_truth(write(tmp_path, found, images=False))


def inputs(scale=1):
    made = []
    for image in (5, 6, 7):
        g = torch.Generator().manual_seed(image)
        pixels = torch.randint(0, 256, (3, 64 * scale, 96 * scale), generator=g, dtype=torch.uint8)
        made.append({"image": pixels, "image_id": image, "height": 64, "width": 96})
    return made


def learned(truth, given, scale=1):
    """The objects as a training gets them."""
    xywh, classes, crowd = truth.objects_of(truth.index_of(given))
    boxes = torch.from_numpy(xywh[~crowd]).float() * scale
    instances = Instances((64 * scale, 96 * scale))
    instances.gt_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    instances.gt_boxes.clip(instances.image_size)
    instances.gt_classes = torch.from_numpy(classes[~crowd])
    return {**given, "instances": instances}


@pytest.mark.parametrize("host", ["deformable, two-stage, dn", "detr", "adamixer", "tsp-fcos, all points", "tsp-rcnn"])
def test_they_are_those_of_a_training_on_the_same_images(host, truth):
    torch.manual_seed(0)
    model = ALL_HOSTS[host]().eval()
    batch = inputs(2)
    evaluator = LossEvaluator(truth, model.rules, lambda: 0.0)
    found = inference_on_dataset(model, [batch], evaluator)["val"]
    assert found["total_loss"] == pytest.approx(sum(v for k, v in found.items() if k != "total_loss"))
    assert found["total_loss"] > 0 and all(math.isfinite(v) for v in found.values())
    if host.startswith("tsp"):  # in a training other points and boxes become tokens
        assert {"loss_class", "loss_giou"} <= set(found)
        return
    model.train()
    for part in model.modules():  # nothing is left to chance
        if isinstance(part, torch.nn.Dropout | torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    given = [learned(truth, x, 2) for x in batch]
    images, targets = model.inputs(given)
    with torch.no_grad():
        sets = model.core(images.images_B3HW, images.valid_hw_B2, targets, ())
    main = [s for s in sets if s.group == "main" and s.stage >= 0]
    wanted = SetCriterion({"main": model.rules["main"]})(main, targets)
    assert set(found) == {"total_loss", *wanted}
    total = {"total_loss": float(sum(wanted.values()))}
    assert found == pytest.approx({**{k: float(v) for k, v in wanted.items()}, **total}, rel=1e-4)


def test_each_image_counts_once_whatever_batch_and_process_it_was_in(truth, monkeypatch):
    torch.manual_seed(0)
    model = ALL_HOSTS["dab"]().eval()
    one, two, three = inputs()

    def losses(*batches):
        evaluator = LossEvaluator(truth, model.rules, lambda: 0.0)
        inference_on_dataset(model, batches, evaluator)
        return evaluator

    alone = losses([one], [two], [three])
    whole = alone.evaluate()["val"]
    parts = [losses([one], [two])._losses, losses([three], [two])._losses]  # the second one twice, to fill up
    monkeypatch.setattr(comm, "gather", lambda value: parts)
    assert alone.evaluate()["val"] == pytest.approx(whole)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert alone.evaluate() == {}


def test_a_stage_that_is_not_finite_gives_no_number_and_ends_nothing(truth):
    """Of the last stage an evaluation looks itself."""
    model, batch = ALL_HOSTS["dab"]().eval(), inputs()
    evaluator = LossEvaluator(truth, model.rules, lambda: 0.0)
    with torch.no_grad():
        outputs, sets = model.predict_sets(batch)
        sets[0].logits_BQK.fill_(math.nan)
        evaluator.process(batch, outputs, sets)
    assert math.isnan(evaluator.evaluate()["val"]["total_loss"])


def test_what_has_no_such_losses_is_refused_before_a_training(truth):
    cfg = {"train": {"eval_loss": True}}
    cfg = type("Config", (), {"train": cfg["train"]})
    model = ALL_HOSTS["dab"]()
    with pytest.raises(UserError, match="train.eval_loss=true needs"):
        loss_evaluators(cfg, model, (None, object()), lambda: 0.0)
    with pytest.raises(UserError, match="no rule of group 'main'"):
        LossEvaluator(truth, {}, lambda: 0.0)
    assert loss_evaluators(cfg, model, None, lambda: 0.0) == []
    cfg.train["eval_loss"] = False
    assert loss_evaluators(cfg, model, (None, object()), lambda: 0.0) == []


def test_the_best_may_be_chosen_by_them():
    class Evaluator:
        def metric_names(self):
            return ["bbox/AP"]

    check_metric("val/total_loss", Evaluator(), more=loss_names({"eval_loss": True}))
    check_metric("val/loss_class", Evaluator(), more=loss_names({"eval_loss": True}))
    for names in ({"eval_loss": False}, {}):
        with pytest.raises(UserError, match="val/total_loss: the evaluation gives no such metric"):
            check_metric("val/total_loss", Evaluator(), more=loss_names(names))


def test_a_line_of_the_log_and_none_of_those_that_scripts_read(truth, caplog, monkeypatch):
    from detrex_ext.evaluation import print_csv_format

    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    caplog.set_level(logging.INFO)
    model = ALL_HOSTS["dab"]().eval()
    results = inference_on_dataset(model, [inputs()], LossEvaluator(truth, model.rules, lambda: 0.0))
    assert [m for m in caplog.messages if m.startswith("losses of 3 validation images: total_loss: ")]
    print_csv_format({"bbox": {"AP": 1.0}, **results})
    assert [m for m in caplog.messages if "copypaste" in m] == [
        "copypaste: Task: bbox", "copypaste: AP", "copypaste: 1.0000",
    ]  # fmt: skip
    json.dumps(results, allow_nan=False)


@pytest.mark.parametrize("matcher", [FCOSMatcher(), RoIMatcher(), OneToManyMatcher(boxes="prior")])
def test_rules_that_go_by_where_queries_began_are_refused_at_the_start(truth, matcher):
    model = ALL_HOSTS["deformable, two-stage"]().eval()
    model.rules["main"] = replace(model.rules["main"], matcher=matcher)
    cfg = SimpleNamespace(train={"eval_loss": True})
    with pytest.raises(UserError, match=f"{type(matcher).__name__} matches by where queries began"):
        loss_evaluators(cfg, model, (None, SimpleNamespace(truth=truth)), lambda: 0.0)
