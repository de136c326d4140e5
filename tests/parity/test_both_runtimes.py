"""A training is the same with and without detectron2, bit for bit, and each goes on from the other's checkpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from narrow import overrides

from detrex_ext.data import shapes

if importlib.util.find_spec("detectron2") is None:
    pytest.skip("comparison of the runtimes needs detectron2", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("time", "data_time", "eta_seconds", "rank_data_time")
SHORT = (
    "model.decoder.num_layers=2", "dataloader.train.total_batch_size=4", "train.amp.enabled=false", "train.seed=3",
    "train.max_iter=20", "train.eval_period=10", "train.checkpointer.period=5", "train.log_period=2",
)  # fmt: skip
SCRIPT = """
import os, signal, sys, torch
from detrex_ext import engine, runtime
from detrex_ext.config import load_config
torch.set_num_threads(1)
if os.environ.get("DIE_AT"):
    inner = engine.Trainer.run_step
    def run_step(self):
        if self.iter == int(os.environ["DIE_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        inner(self)
    engine.Trainer.run_step = run_step
class Flags:
    config_file, resume = "", os.environ.get("RESUME") == "1"
engine.train(load_config("small", (), sys.argv[1:]), Flags())
assert runtime.name() == os.environ["DETREX_EXT_RUNTIME"]
"""


def train(runtime: str, data: Path, out: Path, **env: str) -> int:
    """Exit code of a training in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *overrides(data, out), *SHORT],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DETREX_EXT_RUNTIME": runtime, **env},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def results(out: Path) -> tuple[list[dict], dict]:
    """Metrics without times, and the last checkpoint."""
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return metrics, torch.load(out / "model_final.pth", weights_only=True)


def assert_equal(a, b) -> None:
    """Metrics, weights and optimizer, to the bit."""
    assert a[0] == b[0] and len(a[0]) >= 10
    for key in ("model", "ema_state"):
        assert a[1][key].keys() == b[1][key].keys()
        assert all(torch.equal(v, b[1][key][k]) for k, v in a[1][key].items())
    one, two = (x[1]["trainer"]["optimizer"]["state"] for x in (a, b))
    assert one.keys() == two.keys()
    assert all(torch.equal(v, two[i][k]) for i, state in one.items() for k, v in state.items())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, 12, 4, 48, 0)
    return root


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """A whole training without detectron2."""
    out = tmp_path_factory.mktemp("alone")
    assert train("standalone", data, out) == 0
    return results(out)


def test_same_training(data, alone, tmp_path):
    assert train("detectron2", data, tmp_path) == 0
    assert_equal(results(tmp_path), alone)


@pytest.mark.parametrize(("first", "then"), [("standalone", "detectron2"), ("detectron2", "standalone")])
def test_one_goes_on_where_the_other_was_killed(first, then, data, alone, tmp_path):
    assert train(first, data, tmp_path, DIE_AT="13") == -signal.SIGKILL
    assert train(then, data, tmp_path, RESUME="1") == 0
    assert_equal(results(tmp_path), alone)
