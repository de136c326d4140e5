"""A model of the zoo by one command: equal bytes twice, and its entry is one that `zoo:NAME` takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import detrex_ext
from detrex_ext.checkpoint import read_checkpoint, zoo, zoo_entries
from detrex_ext.checkpoint.zoo_entries import entry_problem

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path) -> tuple[Path, dict]:
    command = [sys.executable, "-m", "detrex_ext", "zoo", "build", "small_shapes", "--steps", "2", "--output", folder]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder.parent, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.glob("*.pth")
    return file, json.loads((folder / "small_shapes.json").read_text())


@pytest.mark.slow
def test_two_builds_give_equal_bytes_and_an_entry_that_is_taken(tmp_path, monkeypatch):
    (one, entry), (other, again) = build(tmp_path / "a"), build(tmp_path / "somewhere else")
    assert one.read_bytes() == other.read_bytes() and entry == again
    assert entry_problem({**entry, "commit": "0" * 40}) == ""  # of a checkout with changes it is none
    held = read_checkpoint(one)
    assert str(tmp_path) not in held["config"] and set(held) <= {
        "model", "class_names", "category_ids", "config", "iteration", "threshold", "holds", "made_by"}  # fmt: skip

    monkeypatch.setattr(zoo_entries, "FILE", tmp_path / "zoo.json")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv(zoo.FOLDER, str(one.parent))
    zoo_entries.FILE.write_text(json.dumps({"models": [{**entry, "commit": "0" * 40}]}))
    predictor = detrex_ext.load("zoo:small_shapes", device="cpu")
    assert predictor.class_names == ["circle", "rectangle", "triangle", "star"]
    image = next((one.parent / "shapes" / "images").glob("val_*.png"))
    assert len(predictor.predict(image, threshold=0)) > 0
