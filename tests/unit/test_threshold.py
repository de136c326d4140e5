"""The score threshold from an evaluation into the checkpoint, and from there into predictions."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_api import NAMES, _image
from test_api import run as run  # a run folder; the fixture

import detrex_ext
from detrex_ext.checkpoint import convert, read_checkpoint
from detrex_ext.checkpoint.threshold import DEFAULT, from_results, put_threshold, threshold_of
from detrex_ext.checkpoint.weights import Weights
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError

SAVED = {"score": 0.3, "F1": 71.0, "iteration": 499, "classes": {"circle": 0.2, "star": 0.9}}


def with_threshold(run, path, threshold, **more):
    data = torch.load(run[0] / "model_final.pth", weights_only=True)
    torch.save({**data, "threshold": threshold, "evaluated": "ema_state", **more}, path)
    return path


@pytest.fixture
def middle(run):
    """A threshold that some detections reach and some do not."""
    scores = detrex_ext.load(run[0], device="cpu").predict(_image(), 0).scores
    return (scores.median().item() + scores.max().item()) / 2


def test_predictions_use_what_the_checkpoint_holds(run, tmp_path, middle, caplog):
    with caplog.at_level(logging.INFO):
        predictor = detrex_ext.load(with_threshold(run, tmp_path / "a.pth", {**SAVED, "score": middle}), device="cpu")
    assert f"threshold: {middle:.4g} (best F1 of the evaluation after 500 iterations)" in caplog.text
    own, every = predictor.predict(_image()), predictor.predict(_image(), 0)
    assert 0 < len(own) == int((every.scores >= middle).sum()) < len(every)
    assert len(predictor.predict(_image(), middle / 2)) > len(own), "a number forces another"
    assert len(next(predictor.stream([_image()]))) == len(own)


def test_each_class_has_its_own_where_asked(run, tmp_path):
    classes = {"circle": 0.0, "star": 1.0}
    saved = with_threshold(run, tmp_path / "a.pth", {**SAVED, "score": 1.0, "classes": classes})
    predictor = detrex_ext.load(saved, device="cpu")
    found, every = predictor.predict(_image(), "per-class"), predictor.predict(_image(), 0)
    assert len(found) and set(found.pred_classes.tolist()) == {NAMES.index("circle")}
    assert len(found) == int((every.pred_classes == 0).sum()) < len(every), "another class has that of all"
    with pytest.raises(UserError, match="per-class: .*model_final.pth has none: "):
        detrex_ext.load(run[0], device="cpu").predict(_image(), "per-class")
    with pytest.raises(ValueError, match="threshold=best must lie in"):
        predictor.predict(_image(), "best")


def test_a_checkpoint_of_before_keeps_the_default(run):
    predictor = detrex_ext.load(run[0], device="cpu")
    assert predictor.threshold.score == DEFAULT == 0.5 and not predictor.threshold.chosen


@pytest.mark.parametrize(
    "broken",
    [math.nan, "0.4", 1e9, [0.4], {}, {"score": math.nan}, {"score": 1e9}, {"score": "0.4"}, {"score": True},
     {"score": [0.4]}, {"score": -0.1}, {"score": torch.tensor(0.4)}, {"score": None}, "x" * 10**6, {1: 2}],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_threshold_is_ignored_with_a_line(broken, caplog):
    weights = Weights("x.pth", {"model": {}, "threshold": broken}, "model")
    with caplog.at_level(logging.WARNING):
        found = threshold_of(weights)
    assert found.score == DEFAULT and not found.classes and not found.chosen
    (line,) = caplog.messages
    assert "x.pth: its threshold is" in line and "ignored" in line and len(line) < 200


@pytest.mark.parametrize("classes", [{"a": math.nan, "b": 0.2}, {3: 0.1, "b": 0.2}, {"a": "0.2", "b": 0.2}])
def test_broken_thresholds_of_classes_leave_the_others(classes, caplog):
    saved = {"score": 0.4, "classes": classes, "iteration": "?"}
    found = threshold_of(Weights("x.pth", {"model": {}, "threshold": saved}, "model"))
    assert found.of(["a", "b"]) == [0.4, 0.2] and "ignored" in caplog.text
    other = {"model": {}, "threshold": {"score": 0.4, "classes": [0.3]}}
    assert threshold_of(Weights("x.pth", other, "model")).of(["a"]) == [0.4]


def test_a_threshold_of_averaged_weights_is_not_that_of_the_trained_ones(run, tmp_path):
    saved = with_threshold(run, tmp_path / "a.pth", SAVED)
    assert detrex_ext.load(saved, device="cpu").threshold.score == 0.3
    trained = detrex_ext.load(saved, device="cpu", average=False).threshold
    assert trained.score == DEFAULT and "of its averaged weights" in trained.origin


def test_what_of_an_evaluation_is_kept():
    results = {
        "bbox": {"AP": 3.0},
        "bbox_f1": {"threshold": 0.4, "F1": 50.0, "threshold-a": 0.3, "threshold-b": math.nan},
        "bbox_nms_f1": {"threshold": 0.9},
    }
    expected = {"score": 0.4, "F1": 50.0, "iteration": 7, "classes": {"a": 0.3}}
    assert from_results(results, 7) == expected == from_results(json.loads(json.dumps(results)), 7)
    assert from_results({"bbox": {"AP": 3.0}}, 7) is None
    assert from_results({"bbox_f1": {"threshold": math.nan}}, 7) is None


def test_a_threshold_is_put_into_a_file_and_all_else_stays(run, tmp_path):
    path = with_threshold(run, tmp_path / "a.pth", None)
    before = torch.load(path, weights_only=True)
    put_threshold(path, SAVED)
    after = torch.load(path, weights_only=True)
    assert after.pop("threshold") == SAVED and before.pop("threshold") is None
    assert before.keys() == after.keys() and before["config"] == after["config"]
    assert all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])
    put_threshold(path, None)
    assert "threshold" not in torch.load(path, weights_only=True)


def test_a_converted_file_keeps_the_threshold_of_its_weights(run, tmp_path):
    saved = with_threshold(run, tmp_path / "a.pth", SAVED)
    convert(saved, tmp_path / "average.pth")
    convert(saved, tmp_path / "trained.pth", average=False)
    assert read_checkpoint(tmp_path / "average.pth")["threshold"] == SAVED
    assert "threshold" not in read_checkpoint(tmp_path / "trained.pth")
    assert detrex_ext.load(tmp_path / "average.pth", device="cpu").threshold.score == 0.3


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "threshold: 0.3 (best F1 of the evaluation after 500 iterations)"),
        (["--threshold", "0.25"], "threshold: 0.25 (--threshold)"),
        (["--threshold", "per-class"], "threshold: circle 0.2, square 0.3, star 0.9 (best F1 of the evaluation"),
    ],
)
def test_the_command_says_which_and_agrees_with_the_library(run, tmp_path, capsys, arguments, told):
    Image.fromarray(_image()).save(tmp_path / "a.png")
    saved = with_threshold(run, tmp_path / "a.pth", SAVED)
    command = ["predict", str(saved), str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert dispatch([*command, *arguments]) == 0
    assert told in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    asked = arguments[1:] and (arguments[1] if arguments[1] == "per-class" else float(arguments[1]))
    direct = detrex_ext.load(saved, device="cpu").predict(tmp_path / "a.png", asked or None)
    assert np.allclose(rows[0]["scores"], direct.scores.numpy(), atol=1e-4)


@pytest.mark.parametrize("text", ["half", "nan", "1e9", "-0.1"])
def test_a_threshold_that_is_none_ends_the_command(run, tmp_path, capsys, text):
    Image.fromarray(_image()).save(tmp_path / "a.png")
    command = ["predict", str(run[0]), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    try:
        code = dispatch([*command, f"--threshold={text}"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2 and "--threshold" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
