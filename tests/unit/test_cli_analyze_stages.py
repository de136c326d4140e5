"""`analyze stages` on a trained narrow model."""

from __future__ import annotations

import json
import re
import shutil

import narrow_run
import pytest
import torch

from detrex_ext.cli import dispatch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with random weights, and its data."""
    return narrow_run.write(tmp_path_factory.mktemp("run"))


def test_a_run_folder_gives_table_json_and_files(run, tmp_path, capsys):
    argv = [str(run), "--iou", "all", "--images", "1"]
    argv += ["--output", str(tmp_path / "o"), "--json", str(tmp_path / "figures.json"), "dataloader.test.batch_size=2"]
    assert dispatch(["analyze", "stages", *argv]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"AP at IoU +stage 1 +stage 2 +stage 3 +top 100 +oracle\n0.5 +", shown)
    assert re.search(r"errors at IoU +TP +TP-F +FP +FP-E +missed +recoverable +grief", shown)
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report == json.loads((tmp_path / "o" / "stages.json").read_text())
    assert report["images"] == 3 and len(report["rows"]) == 10 and len(report["overall"]["AP_stages"]) == 3
    assert {row["tp"] + row["fp"] for row in report["rows"]} == {30}  # ten queries on three images


def test_a_moved_run_gets_its_figures_and_nobody_an_older_image(run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved")
    (moved / "stages").mkdir()
    (moved / "stages" / "fading_07_of_before.png").write_bytes(b"old")
    argv = ["analyze", "stages", str(moved), "--images", "0"]
    assert dispatch([*argv, "--json", str(moved / "stages" / "stages.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"metrics in {moved}/stages/stages.json\n") and "every AP at IoU 0.75:" in shown
    assert json.loads((moved / "stages" / "stages.json").read_text())["images"] == 3
    assert (moved / "evaluation").is_dir() and len(list((moved / "stages").iterdir())) == 1


def test_weights_and_folder_by_override(run, capsys):
    checkpoint = f"train.init_checkpoint={run}/model_final.pth"
    config = str(run / "config.yaml")
    assert dispatch(["analyze", "stages", config, "--images", "0", checkpoint]) == 0
    assert (run / "stages" / "stages.json").is_file()
    assert f"metrics in {run}/stages/stages.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--iou", "75"], "--iou 75: expected numbers between 0 and 1"),
        (["--iou", "most"], "--iou most: expected"),
        (["--images", "-1"], "--images -1: expected 0 or more"),
        ([], "which weights? name them by train.init_checkpoint=PATH"),
        (["train.init_checkpoint=nowhere.pth", "dataset.val_json=x.json"], "checkpoint nowhere.pth: not found"),
    ],
)
def test_bad_input_is_one_message(argv, message, tmp_path, capsys):
    output = ["--output", str(tmp_path / "o")]
    assert dispatch(["analyze", "stages", "small", *output, *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, path, message",
    [
        ("--output", "file", "file: expected a folder that can be made or written to: File exists"),
        ("--output", "file/below", "below: expected a folder that can be made or written to: Not a directory"),
        ("--json", "none/x.json", "x.json: expected a file to write; there is no folder"),
        ("--json", ".", "expected a file to write; it is a folder"),
    ],
)
@pytest.mark.parametrize("verb", ["stages", "queries-per-object"])
def test_where_to_write_is_known_before_anything_is_computed(run, tmp_path, verb, option, path, message, capsys):
    (tmp_path / "file").write_text("")
    assert dispatch(["analyze", verb, str(run), option, str(tmp_path / path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
@pytest.mark.parametrize("device, message", [("cuda", "no GPU that torch can use"), ("gpu", "no device that torch")])
def test_a_run_of_another_machine_tells_how_to_use_this_one(run, tmp_path, device, message, capsys):
    argv = [str(run), "--output", str(tmp_path), f"train.device={device}"]
    assert dispatch(["analyze", "stages", *argv]) == 2
    assert f"train.device={device}: " in (shown := capsys.readouterr().err) and message in shown


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert dispatch(["analyze", "stages", str(tmp_path)]) == 2
    assert f"no config '{tmp_path}': a folder without config.yaml" in capsys.readouterr().err


def test_several_processes_are_refused(run, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")  # alone, it may be a cluster's
    assert dispatch(["analyze", "stages", "small"]) == 2
    assert "which weights?" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert dispatch(["analyze", "stages", str(run)]) == 2
    assert re.search("analyze runs in one process, not in 2 .*evaluator.stages=true", capsys.readouterr().err, re.S)
