"""Trainings that write tables, events and files of W&B, and losses of the validation data."""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import assert_equal, config, die, in_process, metrics, train

from detrex_ext.checkpoint import RunFolder

SHORT = ("train.max_iter=4", "train.eval_period=2", "train.log_period=1", "train.report=false")
HELD = "val/total_loss"


@functools.cache
def trained(data: Path, root: Path) -> tuple[Path, Path]:
    """One training with the losses of the validation data and a table, and the same without."""
    train(data, root / "with", (*SHORT, "train.eval_loss=true", "train.writers.csv=true"))
    train(data, root / "without", SHORT)
    return root / "with", root / "without"


@pytest.fixture
def runs(shapes_data, tmp_path_factory):
    """Trained for the first test: of each test, what it does to the loggers is undone."""
    return trained(shapes_data, tmp_path_factory.getbasetemp() / "writers")


def test_losses_of_the_validation_data_change_nothing_else(runs):
    one, two = (torch.load(run / "model_final.pth", weights_only=True) for run in runs)
    for key in ("model", "ema_state", "rng"):
        assert_equal(one[key], two[key])
    assert_equal(one["trainer"]["optimizer"], two["trainer"]["optimizer"])
    with_losses, without = ([{k: v for k, v in line.items() if not k.startswith("val/")} for line in metrics(run)]
                            for run in runs)  # fmt: skip
    assert with_losses == without
    found = {line["iteration"]: line for line in metrics(runs[0]) if HELD in line}
    assert sorted(found) == [1, 4] and not any(HELD in line for line in metrics(runs[1]))
    own = {name.removeprefix("val/") for name in found[1] if name.startswith("val/")}
    assert own == {"total_loss", "loss_class", "loss_bbox", "loss_giou"}


def test_they_are_of_the_weights_that_are_evaluated(runs, shapes_data, tmp_path):
    """The average, whose losses an evaluation of the finished run gives again."""
    from detrex_ext import engine

    cfg = config(shapes_data, tmp_path, f"train.init_checkpoint={runs[0]}", "train.eval_loss=true")
    results = engine.evaluate(cfg)
    last = metrics(runs[0])[-1]
    assert results["val"]["total_loss"] == pytest.approx(last[HELD], rel=1e-5)
    assert results["bbox"]["AP"] == pytest.approx(last["bbox/AP"])
    cfg = config(shapes_data, tmp_path / "t", f"train.init_checkpoint={runs[0]}", "train.eval_loss=true")
    cfg.train.model_ema.average = False
    assert engine.evaluate(cfg)["val"]["total_loss"] != pytest.approx(last[HELD], rel=1e-5)


def test_curves_and_the_page_show_them(runs):
    from detrex_ext.report.facts_sections import curves_section
    from detrex_ext.report.folder import read_run
    from detrex_ext.visualization.curves import _panels

    facts = read_run(runs[0])
    assert HELD in str(curves_section(facts)) and HELD not in str(curves_section(read_run(runs[1])))
    assert _panels(sorted(facts.series))[0] == ["total_loss", HELD]
    assert facts.results["val"].keys() >= {"total_loss", "loss_class"}


def test_a_table_of_what_metrics_json_holds(runs):
    rows = list(csv.DictReader(RunFolder(runs[0]).csv.open()))
    lines = RunFolder(runs[0]).read_metrics()
    assert [int(row["iteration"]) for row in rows] == [line["iteration"] for line in lines] == [0, 1, 2, 3, 4]
    for row, line in zip(rows, lines, strict=True):
        for name, text in row.items():
            assert (float(text) if text else None) == line.get(name)
    assert set(rows[0]) == {name for line in lines for name in line}


def in_a_row():
    """A part of a row of metrics.csv is written."""
    from detrex_ext.engine import CSVWriter

    inner, count = CSVWriter.put, []

    def put(self, lines):
        count.append(1)
        if len(count) == 3:
            self._file.write("5,1.0,")
            die()
        inner(self, lines)

    CSVWriter.put = put


@pytest.mark.slow
def test_a_checkpoint_that_is_left_out_is_in_the_log(runs, shapes_data, tmp_path):
    folder = RunFolder(shutil.copytree(runs[1], tmp_path / "run"))
    folder.final.write_bytes(b"no checkpoint")
    train(shapes_data, folder.path, SHORT, resume=True)
    log = (folder.path / "log.txt").read_text()
    assert log.count("WARNING: skipped: ") == 1 and "model_final.pth: cannot be read" in log


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_table(shapes_data, tmp_path):
    more = ("train.writers.csv=true", "train.eval_loss=true")
    assert in_process(train, shapes_data, tmp_path / "whole", more) == 0
    assert in_process(train, shapes_data, tmp_path / "cut", more, sabotage=in_a_row) == -signal.SIGKILL
    assert in_process(train, shapes_data, tmp_path / "cut", more, resume=True) == 0

    def table(run):
        rows = csv.DictReader(RunFolder(run).csv.open())
        return [{k: v for k, v in row.items() if "time" not in k and k != "eta_seconds"} for row in rows]

    assert table(tmp_path / "whole") == table(tmp_path / "cut")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def kill_wandb():
    """The process of wandb is killed after the first line of the training."""
    from detrex_ext.engine import WandbWriter

    inner, count = WandbWriter.put, []

    def put(self, lines):
        inner(self, lines)
        count.append(1)
        if len(count) == 2:
            listed = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb"], capture_output=True, text=True)
            for pid in map(int, listed.stdout.split()):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    WandbWriter.put = put


RUN = """
import sys
sys.path[:0] = {path!r}
import test_train_writers as t
from pathlib import Path
data, out, more, resume, sabotage = {arguments!r}
t.train(Path(data), Path(out), tuple(more), resume, getattr(t, sabotage) if sabotage else None)
"""


def wandb_training(data, out, resume=False, sabotage="", *more):
    path = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    arguments = (str(data), str(out), ["train.writers.wandb=true", *SHORT, *more], resume, sabotage)
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    text = RUN.format(path=path, arguments=arguments)
    return subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_files_of_wandb(shapes_data, tmp_path):
    ended = wandb_training(shapes_data, tmp_path)
    assert ended.returncode == 0, ended.stderr
    name = json.loads(RunFolder(tmp_path).wandb.read_text())["id"]
    (files,) = (tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")
    assert files.stat().st_size > 1000 and "W&B: run" in (tmp_path / "log.txt").read_text()
    ended = wandb_training(shapes_data, tmp_path, True, "", "train.max_iter=6")
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_dies_and_the_training_goes_on(shapes_data, tmp_path):
    ended = wandb_training(shapes_data, tmp_path, False, "kill_wandb")
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stdout.count("WandbWriter failed") == 1
    assert [line["iteration"] for line in metrics(tmp_path)] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_wandb_is_asked_for_and_not_there(shapes_data, tmp_path):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    ended = wandb_training(shapes_data, tmp_path)
    assert ended.returncode != 0 and "pip install 'detrex_ext[wandb]'" in ended.stderr
    assert not RunFolder(tmp_path).results()
