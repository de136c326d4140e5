"""Two processes train and evaluate as one does with the same total batch; so does one with micro-batches."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from training import in_process, metrics, overrides

# Without statistics of the batch, dropout or denoising a batch's loss does not depend on how it is cut.
STEADY = (
    "model.backbone.norm=FrozenBN",
    "model.neck.norm=FrozenBN",
    "model.queries.groups=0",
    "model.queries.label_noise_ratio=0",
    "train.max_iter=4",
    "train.eval_period=0",
    "train.checkpointer.period=100",
    "train.log_period=1",
    "dataloader.train.aspect_ratio_grouping=false",
)


def command(data, out, *more):
    return ["--config-file", "small", *overrides(data, out), *STEADY, *more]


def by_command(*argv):
    from detrex_ext.cli import run
    from detrex_ext.cli.train import main

    torch.set_num_threads(1)
    sys.exit(run(main, argv))


@pytest.fixture(scope="module")
def alone(shapes_data, tmp_path_factory):
    """One process with the whole batch."""
    out = tmp_path_factory.mktemp("alone")
    assert in_process(by_command, *command(shapes_data, out)) == 0
    return out


def assert_same_losses_and_figures(a, b):
    one, two = metrics(a), metrics(b)
    assert [line["iteration"] for line in one] == [line["iteration"] for line in two] == [0, 1, 2, 3, 4]
    for x, y in zip(one, two, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            if name.startswith(("bbox", "ema")):
                assert x[name] == y[name], name
            else:
                assert math.isclose(x[name], y[name], rel_tol=1e-5, abs_tol=1e-6), (name, x[name], y[name])


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches(shapes_data, alone, tmp_path, parts):
    assert in_process(by_command, *command(shapes_data, tmp_path, f"train.accumulate_steps={parts}")) == 0
    assert_same_losses_and_figures(alone, tmp_path)


def test_launch(shapes_data, alone, tmp_path):
    assert in_process(by_command, *command(shapes_data, tmp_path), "--num-gpus", "2") == 0
    assert_same_losses_and_figures(alone, tmp_path)
    assert "2 processes x 1 accum = 4" in (tmp_path / "log.txt").read_text()


def torchrun(*argv):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launcher, "-m", "detrex_ext", *argv]


def test_torchrun_with_micro_batches(shapes_data, alone, tmp_path):
    argv = torchrun("train", *command(shapes_data, tmp_path, "train.accumulate_steps=2"))
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_losses_and_figures(alone, tmp_path)
