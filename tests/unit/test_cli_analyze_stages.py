"""`analyze stages` on a trained narrow model."""

from __future__ import annotations

import json
import re

import narrow_run
import pytest

from detrex_ext.cli import dispatch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with random weights, and its data."""
    return narrow_run.write(tmp_path_factory.mktemp("run"))


def test_a_run_folder_gives_table_json_and_files(run, tmp_path, capsys):
    argv = ["--config-file", str(run), "--iou", "all", "--pictures", "1"]
    argv += ["--output", str(tmp_path / "o"), "--json", str(tmp_path / "figures.json"), "dataloader.test.batch_size=2"]
    assert dispatch(["analyze", "stages", *argv]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"AP at IoU +stage 1 +stage 2 +stage 3 +top 100 +oracle\n0.5 +", shown)
    assert re.search(r"errors at IoU +TP +TP-F +FP +FP-E +missed +recoverable +grief", shown)
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report == json.loads((tmp_path / "o" / "stages.json").read_text())
    assert report["images"] == 3 and len(report["rows"]) == 10 and len(report["overall"]["AP_stages"]) == 3
    assert {row["tp"] + row["fp"] for row in report["rows"]} == {30}  # ten queries on three pictures


def test_weights_and_folder_by_override(run, capsys):
    checkpoint = f"train.init_checkpoint={run}/model_final.pth"
    config = str(run / "config.yaml")
    assert dispatch(["analyze", "stages", "--config-file", config, "--pictures", "0", checkpoint]) == 0
    assert (run / "stages" / "stages.json").is_file()
    assert f"figures in {run}/stages/stages.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--iou", "75"], "--iou 75: expected numbers between 0 and 1"),
        (["--iou", "most"], "--iou most: expected"),
        (["--pictures", "-1"], "--pictures -1: expected 0 or more"),
        ([], "which weights? name them by train.init_checkpoint=PATH"),
    ],
)
def test_bad_input_is_one_message(argv, message, capsys):
    assert dispatch(["analyze", "stages", "--config-file", "small", *argv]) == 2
    assert message in capsys.readouterr().err
