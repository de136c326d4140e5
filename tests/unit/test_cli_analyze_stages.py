"""`analyze stages` on a trained narrow model."""

from __future__ import annotations

import json
import re

import pytest
import torch

from detrex_ext.cli import dispatch
from detrex_ext.config import load_config, save_config
from detrex_ext.data import shapes
from detrex_ext.inference import build_for_inference

NARROW = [
    "model.backbone.stem=[8,8]",
    "model.backbone.widths=[8,16,16,16]",
    "model.neck.in_channels={res3:16,res4:16,res5:16}",
    "model.neck.out_channels=32",
    "model.queries.source.num_queries=10",
    "model.queries.source.dim=32",
    "model.queries.dim=32",
    "model.decoder.dim=32",
    "model.decoder.ffn_dim=32",
    "model.decoder.num_layers=3",
    "dataset.short_edge=32",
    "dataset.long_edge=32",
    "train.device=cpu",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with random weights, and its data."""
    root = tmp_path_factory.mktemp("run")
    shapes.write(root / "data", 1, 3, 48, 0)
    data = [f"dataset.{part}_json={root}/data/{part}.json" for part in ("train", "val")]
    data += [f"dataset.{part}_images={root}/data/images" for part in ("train", "val")]
    cfg = load_config("small", (), [*NARROW, *data, f"train.output_dir={root}/out"])
    torch.manual_seed(0)
    model = build_for_inference(cfg, 4)
    names = json.loads((root / "data" / "val.json").read_text())["categories"]
    (root / "out").mkdir()
    save_config(cfg, root / "out" / "config.yaml")
    content = {"model": model.state_dict(), "class_names": [c["name"] for c in names]}
    torch.save(content, root / "out" / "model_final.pth")
    return root / "out"


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
