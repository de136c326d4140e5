from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import math

import numpy as np
import pytest
import torch

from detrex_ext.errors import UserError
from detrex_ext.evaluation import CocoEvaluator, inference_on_dataset, print_csv_format
from detrex_ext.evaluation import coco as coco_module
from detrex_ext.evaluation import coco_metrics as coco_metrics_module
from detrex_ext.evaluation.coco_metrics import coco_metrics
from detrex_ext.runtime import Boxes, Instances

CLASSES = {3: "bolt", 7: "nut", 12: "ring"}


def _data(num_images=12, seed=0):
    """A COCO document with a crowd box, an annotation of id 0, gaps in the category ids and an empty image."""
    rng = np.random.default_rng(seed)
    images = [{"id": 100 - 3 * i, "file_name": f"{i}.png", "width": 300, "height": 200} for i in range(num_images)]
    annotations = []
    for image in images[:-1]:
        for _ in range(rng.integers(1, 9)):
            side = rng.uniform(8, 150, 2)
            box = [*rng.uniform(0, 50, 2), *side]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image["id"],
                    "category_id": int(rng.choice(list(CLASSES))),
                    "bbox": [float(v) for v in box],
                    "area": float(side[0] * side[1] * 0.8),
                    "iscrowd": int(len(annotations) == 5),
                }
            )
    categories = [{"id": i, "name": n} for i, n in reversed(CLASSES.items())]
    return {"images": images, "annotations": annotations, "categories": categories}


def _predictions(data, seed=1):
    """Noisy copies of the ground truth and clutter, as detectron2's (inputs, outputs)."""
    rng = np.random.default_rng(seed)
    order = sorted(CLASSES)
    inputs, outputs = [], []
    for image in data["images"]:
        rows = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        boxes = [np.array(a["bbox"]) + rng.normal(0, 4, 4) for a in rows] + [rng.uniform(5, 90, 4) for _ in range(9)]
        xywh = np.array(boxes).clip(1)
        result = Instances((200, 300))
        result.pred_boxes = Boxes(torch.tensor(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)).float())
        result.scores = torch.tensor(rng.uniform(0, 1, len(xywh)).round(2)).float()
        classes = [order.index(a["category_id"]) for a in rows] + list(rng.integers(0, 3, 9))
        result.pred_classes = torch.tensor(classes)
        inputs.append({"image_id": image["id"]})
        outputs.append({"instances": result})
    return inputs, outputs


@pytest.fixture
def coco(tmp_path):
    data = _data()
    path = tmp_path / "val.json"
    path.write_text(json.dumps(data))
    return path, data


def _official(path, results):
    """The twelve numbers of pycocotools' own summary, on the file as it is but for an annotation of id 0."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        for a in truth.dataset["annotations"]:
            a["id"] += 1
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("fast", [False, True], ids=["pycocotools", "faster-coco-eval"])
def test_metrics_equal_the_official_summary(coco, tmp_path, fast):
    if fast:
        pytest.importorskip("faster_coco_eval")
    path, data = coco
    evaluator = CocoEvaluator(path, tmp_path, fast=fast)
    evaluator.process(*_predictions(data))
    result = evaluator.evaluate()["bbox"]
    official = _official(path, tmp_path / "coco_instances_results.json")
    got = [result[k] for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
    assert got == pytest.approx(100 * official[:6], abs=1e-9)
    assert 5 < result["AP"] < 95
    assert list(result)[6:] == ["AP-bolt", "AP-nut", "AP-ring"]
    assert np.mean([result[f"AP-{n}"] for n in CLASSES.values()]) == pytest.approx(result["AP"])


def test_both_libraries_agree_on_recall_too(coco):
    pytest.importorskip("faster_coco_eval")
    path, data = coco
    evaluator = CocoEvaluator(path)
    evaluator.process(*_predictions(data))
    found = coco_module._table(evaluator._found)
    a, b = (coco_metrics(evaluator.truth.boxes, found, 12, 3, 100, fast) for fast in (False, True))
    assert np.allclose(a.ar, b.ar, atol=1e-12) and np.allclose(a.class_ap_K, b.class_ap_K, atol=1e-12)
    assert (np.diff(a.ar[:3]) >= 0).all()


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_afterwards_as_it_was(coco, monkeypatch, on):
    path, data = coco
    evaluator, during = CocoEvaluator(path), []
    evaluator.process(*_predictions(data))
    monkeypatch.setattr(coco_metrics_module, "best_f1", lambda *_: during.append(gc.isenabled()) or 1 / 0)
    (gc.enable if on else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            evaluator.evaluate()
        assert gc.isenabled() is on
    finally:
        gc.enable()
    assert during == [False]


def test_perfect_predictions_score_100_and_results_file_has_the_files_own_ids(coco, tmp_path):
    path, data = coco
    data["annotations"][5]["iscrowd"] = 0
    path.write_text(json.dumps(data))
    inputs, outputs = [], []
    order = sorted(CLASSES)
    for image in data["images"]:
        rows = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        xywh = torch.tensor([a["bbox"] for a in rows]).reshape(-1, 4)
        result = Instances((200, 300))
        result.pred_boxes = Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))
        result.scores = torch.ones(len(rows))
        result.pred_classes = torch.tensor([order.index(a["category_id"]) for a in rows], dtype=torch.int64)
        inputs.append({"image_id": image["id"]})
        outputs.append({"instances": result})
    evaluator = CocoEvaluator(path, tmp_path / "out")
    evaluator.process(inputs, outputs)
    result = evaluator.evaluate()["bbox"]
    assert result["AP"] == pytest.approx(100) and result["AP-ring"] == pytest.approx(100)
    rows = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {(r["image_id"], r["category_id"]) for r in rows} == {
        (a["image_id"], a["category_id"]) for a in data["annotations"]
    }
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "coco_instances_results.json"]


def test_two_ranks_with_a_repeated_image_give_the_same_metrics(coco, monkeypatch):
    path, data = coco
    inputs, outputs = _predictions(data)
    one = CocoEvaluator(path)
    one.process(inputs, outputs)
    want = one.evaluate()
    payloads = []
    ranks = [CocoEvaluator(path) for _ in range(3)]
    ranks[0].process(inputs[7:], outputs[7:])
    ranks[1].process(inputs[:8], outputs[:8])
    monkeypatch.setattr(coco_module.comm, "gather", lambda mine: payloads.append(mine) or payloads)
    monkeypatch.setattr(coco_module.comm, "is_main_process", lambda: len(payloads) == 3)
    assert ranks[2].evaluate() == {}
    assert ranks[0].evaluate() == {}
    assert ranks[1].evaluate() == want
    rows = [found for payload in payloads for found in payload.values()]
    assert rows and all(found.dtype == np.float32 and found.shape[1] == 6 for found in rows)  # no more is sent


def test_no_detections_are_zero_and_no_images_are_nothing(coco, caplog):
    path, data = coco
    evaluator = CocoEvaluator(path)
    assert evaluator.evaluate() == {}
    empty = Instances((200, 300), pred_boxes=Boxes(torch.zeros(0, 4)))
    empty.scores, empty.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    evaluator.process([{"image_id": 100}], [{"instances": empty}])
    with caplog.at_level(logging.WARNING):
        result = evaluator.evaluate()["bbox"]
    perfect = CocoEvaluator(path)
    perfect.process(*_predictions(data))
    measured = {name: 0.0 for name, value in perfect.evaluate()["bbox"].items() if not math.isnan(value)}
    assert {"AP", "AP50", "AP-nut"} <= measured.keys()
    assert {name: value for name, value in result.items() if not math.isnan(value)} == measured
    assert "no objects were found" in caplog.text
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_a_size_without_objects_is_nan_not_minus_one(coco, tmp_path):
    path, data = coco
    for a in data["annotations"]:
        a["area"] = 500.0
    path.write_text(json.dumps(data))
    evaluator = CocoEvaluator(path)
    evaluator.process(*_predictions(data))
    result = evaluator.evaluate()["bbox"]
    assert math.isnan(result["APl"]) and math.isnan(result["APm"]) and result["APs"] > 0


def test_nothing_is_printed_and_the_table_is_logged(coco, capsys, caplog):
    path, data = coco
    for fast in (False, None):
        evaluator = CocoEvaluator(path, fast=fast)
        evaluator.process(*_predictions(data))
        with caplog.at_level(logging.INFO, "detrex_ext"):
            evaluator.evaluate()
    out = capsys.readouterr()
    assert out.out == "" and out.err == ""
    assert "Per-category bbox AP" in caplog.text and "bolt" in caplog.text


def test_a_library_that_is_not_there_is_told_before_the_evaluation(coco, monkeypatch):
    monkeypatch.setattr(coco_module, "fast_available", lambda: False)
    with pytest.raises(ValueError, match="faster-coco-eval, which is not installed"):
        CocoEvaluator(coco[0], fast=True)


def test_wrong_images_and_classes_are_named(coco):
    path, data = coco
    inputs, outputs = _predictions(data)
    evaluator = CocoEvaluator(path)
    with pytest.raises(UserError, match="image id 5 .*is not in .*val.json"):
        evaluator.process([{"image_id": 5}], outputs[:1])
    outputs[0]["instances"].pred_classes[:] = 3
    evaluator.process(inputs[:1], outputs[:1])
    with pytest.raises(UserError, match="predicted class 3, .* has 3: bolt, nut, ring"):
        evaluator.evaluate()
    with pytest.raises(UserError):
        CocoEvaluator(path.with_name("absent.json"))


def test_fewer_detections_than_cocos_recalls_count_are_refused(coco):
    with pytest.raises(ValueError, match="max_dets is 5; expected at least 10"):
        CocoEvaluator(coco[0], max_dets=5)


def test_a_file_without_annotations_only_gets_the_results(coco, tmp_path):
    path, data = coco
    predictions = _predictions(data)
    path.write_text(json.dumps({k: v for k, v in data.items() if k != "annotations"}))
    evaluator = CocoEvaluator(path, tmp_path)
    evaluator.process(*predictions)
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == sum(
        len(o["instances"]) for o in predictions[1]
    )


class _Model(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.frozen = torch.nn.Dropout().eval()
        self.outputs = outputs

    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [self.outputs[x["image_id"]] for x in inputs]


def test_inference_restores_modes_and_logs_the_times(coco, caplog):
    path, data = coco
    inputs, outputs = _predictions(data)
    model = _Model({i["image_id"]: o for i, o in zip(inputs, outputs, strict=True)}).train()
    model.frozen.eval()
    loader = [inputs[i : i + 2] for i in range(0, len(inputs), 2)]
    with caplog.at_level(logging.INFO, "detrex_ext"):
        results = inference_on_dataset(model, loader, CocoEvaluator(path))
    direct = CocoEvaluator(path)
    direct.process(inputs, outputs)
    assert results == direct.evaluate()
    assert model.training and not model.frozen.training
    assert "Total inference time: 0:00:0" in caplog.text
    assert "Total inference pure compute time: 0:00:0" in caplog.text
    with pytest.raises(KeyError):
        inference_on_dataset(model, [[{"image_id": "no such"}]], None)
    assert model.training
    assert inference_on_dataset(model, loader, None) == {}
    with pytest.raises(ValueError, match="task 'bbox'"):
        inference_on_dataset(model, loader, [CocoEvaluator(path), CocoEvaluator(path)])


def test_copypaste_lines(caplog):
    with caplog.at_level(logging.INFO, "detrex_ext"):
        print_csv_format({"bbox": {"AP": 38.1, "AP50": 59.00004, "AP-person": 50.0}, "speed": 3})
    assert [r.getMessage() for r in caplog.records] == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 38.1000,59.0000",
        "copypaste: speed=3",
    ]


@pytest.mark.parametrize("batches", [1, 2, 5, 12])
def test_times_are_of_all_batches(batches, caplog, monkeypatch):
    """A second for each batch, three for the first one: 5 batches take 7 s, and not that of the last one alone."""
    from detrex_ext.evaluation import loop

    clock = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])

    class Model(torch.nn.Module):
        def forward(self, batch):
            clock[0] += 3.0 if batch == 0 else 1.0
            return []

    with caplog.at_level(logging.INFO, "detrex_ext"):
        inference_on_dataset(Model(), range(batches), None)
    shown = [m for m in caplog.messages if m.startswith("Total inference")]
    each = "3.000000" if batches == 1 else "1.000000"  # the first ones are left out of it
    assert [m.split(": ", 1)[1].split(" s / iter")[0] for m in shown] == [f"0:00:{batches + 2:02d} ({each}"] * 2
