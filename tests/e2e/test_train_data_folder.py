"""`--data DIR` from a training to what is asked of it: the same split and classes, whoever reads the folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import narrow
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from folders import CLASSES, make  # noqa: E402

from detrex_ext.checkpoint import read_checkpoint  # noqa: E402
from detrex_ext.cli import dispatch  # noqa: E402
from detrex_ext.config import load_config  # noqa: E402

SHORT = [
    *narrow.NARROW, "model.decoder.num_layers=2", "dataloader.train.total_batch_size=2", "train.amp.enabled=false",
    "train.max_iter=2", "train.eval_period=2", "train.seed=0", "train.device=cpu",
]  # fmt: skip


def test_a_training_and_what_is_asked_of_it_read_the_folder_alike(tmp_path, capsys):
    data, run = make("yolo_of_label_studio", tmp_path / "my data"), tmp_path / "run"
    train = ["train", "--config-file", "small", "--data", str(data), "--data-seed", "3", *SHORT]
    assert dispatch([*train, f"train.output_dir={run}"]) == 0
    assert "seed 3 (--data-seed)" in capsys.readouterr().out
    assert read_checkpoint(run / "model_final.pth")["class_names"] == CLASSES
    (folder,) = run.glob("data-*")
    cfg = load_config(run)
    assert cfg.dataset.val_json == str(folder / "val.json") and cfg.dataset.val_images == str(data)
    (held_out,) = json.loads((folder / "val.json").read_text())["images"]

    assert dispatch(["predict", str(run), "--data", str(data)]) == 0
    (row,) = json.loads((run / "predictions" / "predictions.json").read_text())
    assert row["file"] == str(data / held_out["file_name"])
    assert dispatch(["analyze", "stages", str(run), "--data", str(data), "--images", "0"]) == 0
    assert [p.name for p in run.glob("data-*")] == [folder.name]
    assert "seed 0 (--data-seed)" not in capsys.readouterr().out

    assert dispatch(["predict", str(run), "--data", str(data), "--data-seed", "4"]) == 0
    other = tmp_path / "other"
    shutil.copytree(folder, run / "data-00000000")
    text = (folder / "decisions.txt").read_text("utf-8").replace("seed 3", "seed 7")
    (run / "data-00000000" / "decisions.txt").write_text(text, "utf-8")
    capsys.readouterr()
    assert dispatch(["predict", str(run), "--data", str(data), "--output", str(other)]) == 2
    assert "split by several seeds: 3, 7\n  name one: --data-seed N" in capsys.readouterr().err


@pytest.mark.parametrize("more, message", [
    (["dataloader.train.dataset.json=other.json"], "the config does not read dataset.train_json, which it sets"),
    (["--replay", "x.pth"], "--replay runs one step of a training: without --resume"),
])  # fmt: skip
def test_data_that_would_not_be_read_are_refused(more, message, tmp_path, capsys):
    data = make("coco", tmp_path / "set")
    line = ["train", "--config-file", "small", "--data", str(data), *more, f"train.output_dir={tmp_path / 'run'}"]
    assert dispatch(line) == 2
    assert message in capsys.readouterr().err
