"""Two processes train and evaluate as one does with the same total batch; so does one with micro-batches."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from training import Flags, config, in_process, metrics, overrides

from detrex_ext.checkpoint import read_checkpoint

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
            if x[name] is None or (name.startswith("bbox") and not name.endswith("threshold")):  # which is a score
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


def term_in_step_2():
    """In one of the processes."""
    from detrex_ext.engine import Trainer
    from detrex_ext.runtime import comm

    inner = Trainer._forward_backward

    def step(self, batch):
        if self.iter == 2 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, batch)

    Trainer._forward_backward = step


def bad_loss_in_step_1():
    """In one of the processes."""
    from detrex_ext.engine import Trainer
    from detrex_ext.runtime import comm

    inner = Trainer._forward

    def forward(self, part, effective, parts):
        losses, stats = inner(self, part, effective, parts)
        if self.iter == 1 and comm.get_rank() == 1:
            losses["loss_class"] = losses["loss_class"] * math.nan
        return losses, stats

    Trainer._forward = forward


def spoilt(sabotage, data, out, *more):
    """Two processes, of which ``sabotage`` spoils one; ends with the exit code of a process that failed."""
    from detrex_ext.runtime import launch

    try:
        launch(_spoilt, 2, args=(sabotage, data, out, more), device="cpu")
    except torch.multiprocessing.ProcessExitedException as error:
        sys.exit(error.exit_code)
    except FloatingPointError as error:
        (out / "error.txt").write_text(str(error))
        sys.exit(1)


def _spoilt(sabotage, data, out, more):
    from detrex_ext import engine

    torch.set_num_threads(1)
    sabotage()
    engine.train(config(data, out, *STEADY, *more), Flags())


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(shapes_data, tmp_path):
    assert in_process(spoilt, term_in_step_2, shapes_data, tmp_path) == 128 + signal.SIGTERM
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_a_bad_loss_of_one_process_ends_all_at_once(shapes_data, tmp_path):
    assert in_process(spoilt, bad_loss_in_step_1, shapes_data, tmp_path) == 1
    said = (tmp_path / "error.txt").read_text()
    assert said.startswith("iteration 1: process 1: total_loss, loss_class not finite\n  batch: ")
    for log in ("log.txt", "log.txt.rank1"):
        text = (tmp_path / log).read_text()
        assert "training stopped by an error in iteration 1" in text
        assert "iteration 1: process 1: total_loss, loss_class not finite" in text  # the reason is told by all
    assert read_checkpoint(tmp_path / "non_finite_rank1.pth")["step"]["rank"] == 1
    assert not (tmp_path / "non_finite.pth").exists()


def test_a_bad_loss_of_one_process_is_skipped_by_all(shapes_data, tmp_path):
    assert in_process(spoilt, bad_loss_in_step_1, shapes_data, tmp_path, "train.non_finite.policy=skip") == 0
    state = read_checkpoint(tmp_path / "model_final.pth")["trainer"]["optimizer"]["state"]
    assert {int(entry["step"]) for entry in state.values()} == {3}  # four less that one
    for log in ("log.txt", "log.txt.rank1"):
        assert "step skipped (1 in a row, 1 in all): iteration 1: process 1: " in (tmp_path / log).read_text()


def resumed(data, folders, limit):
    """Two processes go on, each in a folder of its own, as on machines that share none."""
    from detrex_ext.runtime import launch

    launch(_resumed, 2, args=(data, folders, limit), device="cpu")


def _resumed(data, folders, limit):
    from detrex_ext import engine
    from detrex_ext.runtime import comm

    torch.set_num_threads(1)
    engine.train(config(data, folders[comm.get_rank()], *STEADY, limit), Flags(True))


@pytest.mark.slow
def test_ranks_without_a_common_file_system_go_on_from_the_file_of_the_first(shapes_data, tmp_path):
    first, common, none = tmp_path / "first", tmp_path / "common", tmp_path / "none"
    assert in_process(by_command, *command(shapes_data, first, "train.max_iter=2")) == 0
    shutil.copytree(first, common)
    for folders in ((first, none), (common, common)):
        assert in_process(resumed, shapes_data, folders, "train.max_iter=4") == 0
    assert metrics(first) == metrics(common) and metrics(first)[-1]["iteration"] == 4
    assert "Starting training from iteration 2" in (none / "log.txt.rank1").read_text()
    assert not list(none.glob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overlay, without_chance",
    [
        # a group has as many queries as the fullest image of a process asks for, and others at random
        ("co", "model.strategies.co.give_queries=false"),
        ("mr", "train.seed=0"),
        # which of an image's candidates are looked at
        ("ms", "model.strategies.ms.matcher.cap=null"),
    ],
)
def test_strategies_with_parameters_of_their_own(shapes_data, tmp_path, overlay, without_chance):
    """Losses, those of heads for training only too, and what is trained do not depend on how a batch is cut."""
    runs = [tmp_path / name for name in ("alone", "two")]
    for out, more in zip(runs, ((), ("--num-gpus", "2")), strict=True):
        argv = (*command(shapes_data, out, without_chance), "--overlay", overlay, *more)
        assert in_process(by_command, *argv) == 0, out
    assert_same_losses_and_figures(*runs)
    one, two = (read_checkpoint(out / "model_final.pth")["model"] for out in runs)
    own = [key for key in one if key.startswith("training_only.")]
    assert own and one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], rtol=1e-4, atol=1e-5) for key in own)
