"""What the project wrote at an earlier commit is still read: a run folder, a checkpoint, configs, a command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from training import in_process, metrics

import detrex_ext
from detrex_ext.config import build, load_config
from detrex_ext.inference import build_for_inference
from detrex_ext.testing import example_batch

BEFORE = Path(__file__).resolve().parents[1] / "data" / "before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
CONFIGS = sorted(path.stem for path in BEFORE.glob("*.yaml"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the fixture, the working directory of the test: its paths are relative."""
    for name in ("data", "run"):
        shutil.copytree(BEFORE / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(folder: Path, *argv: str) -> None:
    """The command line of then, with more arguments, in a process that ends with its exit code."""
    import os

    from detrex_ext.cli import run
    from detrex_ext.cli.train import main

    os.chdir(folder)
    torch.set_num_threads(1)
    sys.exit(run(main, [*(BEFORE / "command.txt").read_text().split(), *argv]))


@pytest.mark.parametrize("averaged", [True, False], ids=["average", "trained"])
@pytest.mark.parametrize("source", ["run", "run/model_0000003.pth"])
def test_its_weights_find_the_same(folder, source, averaged):
    found = detrex_ext.load(source, averaged=averaged, device="cpu").predict("data/images/val_00000.png", threshold=0.0)
    then = EXPECTED["average" if averaged else "trained"]
    torch.testing.assert_close(found.scores[:10].double(), torch.tensor(then["scores"]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.pred_boxes.tensor[:10], torch.tensor(then["boxes"]), rtol=0, atol=1e-3)
    assert found.pred_classes[:10].tolist() == then["classes"]


def test_a_run_is_resumed_by_the_command_line_of_then(folder):
    assert in_process(command, folder, "--resume") == 0
    lines = {line["iteration"]: line for line in metrics(folder / "run")}
    assert min(lines) < 3, "the lines of before are kept"
    for then in EXPECTED["resumed"]:
        now = lines[then["iteration"]]
        assert {k: now[k] for k in then} == pytest.approx(then, rel=1e-4)
    final = torch.load(folder / "run" / "model_final.pth", weights_only=True)
    norms = {k: sum(v.double().square().sum() for v in final[k].values()).sqrt().item() for k in ("model", "ema_state")}
    assert norms == pytest.approx(EXPECTED["final_norms"], rel=1e-6)


def test_a_run_is_evaluated_by_the_command_line_of_then(folder):
    assert in_process(command, folder, "--eval-only", "--resume") == 0
    assert "copypaste: AP,AP50" in (folder / "run" / "evaluation" / "log.txt").read_text()


def test_a_run_folder_is_a_config(folder):
    """`--config-file RUN` with the weights of the folder."""
    cfg = load_config("run", overrides=["train.init_checkpoint=run/model_0000003.pth"])
    predictor = detrex_ext.load(cfg, device="cpu")
    assert len(predictor.class_names) == 4


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_config_makes_the_same_model(name):
    cfg = load_config(BEFORE / f"{name}.yaml")
    then = json.loads((BEFORE / "keys.json").read_text())[name]
    model = build_for_inference(cfg, 4)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == then


@pytest.mark.parametrize(
    "name", [name if name.startswith("dino") else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_a_saved_config_trains(name):
    """Overlays and rules of then: every set is supervised, every part of the model gets a gradient."""
    cfg = load_config(BEFORE / f"{name}.yaml", overrides=["model.num_classes=4"])
    model = build(cfg.model, "model").train()
    losses = model(example_batch(4))
    sum(losses.values()).backward()
    assert {"loss_class", "loss_bbox", "loss_giou"} <= set(losses)
    extra = {"dino": "aux", "adamixer": "hybrid", "dab": "recollect", "deformable": "enc"}[name.split("_")[0]]
    assert any(extra in loss for loss in losses), list(losses)
