"""Evaluation of a trained model: the figures of the training again, whatever the number of processes."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from training import in_process, metrics, overrides, train

import detrex_ext
from detrex_ext.checkpoint import read_checkpoint
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError


def evaluate(*argv):
    from detrex_ext.cli import run
    from detrex_ext.cli.train import main

    torch.set_num_threads(1)
    sys.exit(run(main, ["--config-file", "small", "--eval-only", *argv]))


@pytest.fixture(scope="module")
def trained(shapes_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    assert in_process(train, shapes_data, out) == 0
    return out


def figures(out):
    """AP lines of the evaluation's log, as printed for scripts."""
    return re.findall(r"copypaste: ([\d.,nan]+)$", (out / "evaluation" / "log.txt").read_text(), re.M)


def expected(out):
    line = metrics(out)[-1]
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    return ",".join("nan" if line[f"bbox/{n}"] is None else f"{line[f'bbox/{n}']:.4f}" for n in names)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_figures_of_a_file_are_those_of_the_training(shapes_data, trained, tmp_path, processes):
    weights = f"train.init_checkpoint='{trained}/model_final.pth'"
    argv = [*overrides(shapes_data, tmp_path), weights, "--num-gpus", processes]
    assert in_process(evaluate, *argv) == 0
    assert figures(tmp_path) == [expected(trained)]


def test_a_predictor_evaluates_to_the_same_figures(shapes_data, trained, tmp_path):
    predictor, truth = detrex_ext.load(trained, device="cpu"), shapes_data / "val.json"
    found = predictor.evaluate(truth, shapes_data / "images")
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert ",".join(f"{found['bbox'][n]:.4f}" for n in names) == expected(trained)
    assert {"AP-circle", "AP-star"} < found["bbox"].keys()
    assert str(predictor.evaluate(str(truth))) == str(found)  # images beside the file
    content = json.loads(truth.read_text())
    content["categories"][0]["name"] = "ring"
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"knows 4 classes .circle.*, the validation data has 4 .ring"):
        predictor.evaluate(tmp_path / "val.json", shapes_data / "images")
    with pytest.raises(UserError, match="absent.json"):
        predictor.evaluate(tmp_path / "absent.json")
    with pytest.raises(UserError, match="made without a config"):
        detrex_ext.Predictor(predictor.model, predictor.class_names).evaluate(truth)
    predictor.config.dataloader.test.dataset._target_ = "os.mkdir"
    with pytest.raises(UserError, match="would call 'os.mkdir'"):
        predictor.evaluate(truth)


def test_a_run_folder_stays_as_it_is(shapes_data, trained):
    before = {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()}
    assert in_process(evaluate, *overrides(shapes_data, trained), "--resume") == 0
    assert before == {p.name: p.read_bytes() for p in trained.iterdir() if p.is_file()}
    assert figures(trained) == [expected(trained)]


def test_images_without_annotations_give_detections(shapes_data, trained, tmp_path):
    data = json.loads((shapes_data / "val.json").read_text())
    del data["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(data))
    argv = [*overrides(shapes_data, tmp_path), f"train.init_checkpoint='{trained}/model_final.pth'"]
    argv += [f"dataset.val_json='{tmp_path}/test.json'", f"dataloader.evaluator.output_dir='{tmp_path}'"]
    assert in_process(evaluate, *argv) == 0
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {row["image_id"] for row in found} == {image["id"] for image in data["images"]}
    assert "has no annotations: no metrics" in (tmp_path / "evaluation" / "log.txt").read_text()


def test_another_order_of_classes_is_an_error(shapes_data, trained, tmp_path, capsys):
    content = json.loads((shapes_data / "val.json").read_text())
    for category in content["categories"]:
        category["name"] = f"my {category['name']}"
    (tmp_path / "val.json").write_text(json.dumps(content))
    weights = f"train.init_checkpoint='{trained}/model_final.pth'"
    argv = [*overrides(shapes_data, tmp_path), weights, f"dataset.val_json={tmp_path}/val.json"]
    assert dispatch(["train", "--config-file", "small", "--eval-only", *argv]) == 2
    message = capsys.readouterr().err
    assert "knows 4 classes (circle, rectangle, triangle, star), the validation data has 4 (my circle" in message


def test_what_a_checkpoint_carries(trained):
    data = read_checkpoint(trained / "model_final.pth")
    assert data["class_names"] == ["circle", "rectangle", "triangle", "star"]
    assert data["category_ids"] == [1, 2, 3, 4] and data["seed"] == 3
    assert "_target_" in data["config"] and "num_classes: 4" in data["config"]
    assert data["config"] == (trained / "config.yaml").read_text()
    assert data["ema_state"].keys() == data["model"].keys()


def test_the_start_of_the_log_tells_what_is_trained(trained):
    text = (trained / "log.txt").read_text()
    assert re.search(r"model: [\d,]+ parameters, [\d,]+ trainable", text)
    assert re.search(r"data: 12 images, boxes per class: circle \d+, rectangle \d+, triangle \d+, star \d+", text)
    assert "batch 4 x 1 process x 1 accum = 4 (reference 8), lr 0.0015" in text
