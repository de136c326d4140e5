"""A run that goes on from an earlier checkpoint, or with another config: nothing is lost, what differs is told."""

from __future__ import annotations

import json
import re
import shutil
import signal

import pytest
from training import assert_same_run, config, die, in_process, metrics, train

from detrex_ext.checkpoint import read_checkpoint
from detrex_ext.errors import UserError

SHORT = ("train.eval_period=4", "train.checkpointer.period=2", "train.checkpointer.max_to_keep=20")


@pytest.fixture(scope="module")
def finished(shapes_data, tmp_path_factory):
    """A run of 12 iterations with all its checkpoints."""
    out = tmp_path_factory.mktemp("finished")
    assert in_process(train, shapes_data, out, (*SHORT, "train.max_iter=12")) == 0
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that was told to go back to iteration 3."""
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "last_checkpoint").write_text("model_0000003.pth")
    return out


def in_the_first_save():
    from detrex_ext.checkpoint import Checkpointer

    Checkpointer.save = lambda self, name, **kw: die()


def after_the_first_save():
    from detrex_ext.engine import EvalHook

    inner = EvalHook.after_step
    EvalHook.after_step = lambda self: die() if self.trainer.iter == 5 else inner(self)


@pytest.mark.parametrize("moment, resumed_at", [(in_the_first_save, 4), (after_the_first_save, 6)])
def test_a_killed_rollback_goes_on_from_where_it_was(shapes_data, finished, run, moment, resumed_at):
    """With two files to keep: neither its source nor what it wrote is pruned, and the abandoned ones are no newest."""
    more = (*SHORT, "train.max_iter=12", "train.checkpointer.max_to_keep=2")
    kept = ("model_0000001.pth", "model_0000003.pth")
    abandoned = {p.name: p.read_bytes() for p in run.glob("model_*.pth") if p.name not in kept}
    assert in_process(train, shapes_data, run, more, resume=True, sabotage=moment) == -signal.SIGKILL
    assert {p.name: p.read_bytes() for p in (run / "set_aside").glob("*.pth")} == abandoned
    assert (run / "set_aside" / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert (run / "model_0000003.pth").is_file()
    assert in_process(train, shapes_data, run, more, resume=True) == 0
    log = (run / "log.txt").read_text()
    assert f"Starting training from iteration {resumed_at}\n" in log
    assert log.count("what was later is in") == 1
    assert_same_run(finished, run)
    assert not (run / "set_aside_2").exists()


def test_going_back_again_and_elsewhere(shapes_data, run):
    """The other training has a folder of its own to be set aside in."""
    more = (*SHORT, "train.max_iter=6", "optimizer.lr=2e-4")
    assert in_process(train, shapes_data, run, more, resume=True) == 0
    (run / "last_checkpoint").write_text("model_0000001.pth")
    assert in_process(train, shapes_data, run, more, resume=True) == 0
    assert sorted(p.name for p in run.glob("set_aside*")) == ["set_aside", "set_aside_2"]
    assert read_checkpoint(run / "set_aside_2" / "model_final.pth")["iteration"] == 5
    lines = [line["iteration"] for line in metrics(run)]
    assert lines == sorted(set(lines))


def test_the_best_is_of_what_is_gone_on_with(shapes_data, run):
    """Its record is the checkpoint's; a best of the abandoned part is beside it, and not in its place."""
    best = read_checkpoint(run / "model_best.pth")["iteration"]
    more = (*SHORT, "train.max_iter=6")
    assert in_process(train, shapes_data, run, more, resume=True) == 0
    found = read_checkpoint(run / "model_best.pth")
    assert found["iteration"] <= 5 and (run / "set_aside" / "model_best.pth").is_file() == (best > 3)
    assert (run / "last_checkpoint").read_text() == "model_final.pth"


def test_metrics_of_before_are_kept_where_there_is_no_checkpoint(shapes_data, finished, tmp_path):
    (tmp_path / "metrics.json").write_bytes((finished / "metrics.json").read_bytes())
    more = (*SHORT, "train.max_iter=2")
    assert in_process(train, shapes_data, tmp_path, more, resume=True) == 0
    assert (tmp_path / "set_aside" / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert [line["iteration"] for line in metrics(tmp_path)] == [1, 2]


def reject(constant):
    raise AssertionError(constant)


def test_metrics_are_strict_json_in_order_after_a_resume(shapes_data, run):
    """A line that was cut, one twice, and one of the future."""
    with open(run / "metrics.json", "a", encoding="utf-8") as file:
        file.write('{"iteration": 2, "total_loss": 1.0}\n{"iteration": 99}\n{"iteration": 3, "half')
    assert in_process(train, shapes_data, run, (*SHORT, "train.max_iter=8"), resume=True) == 0
    lines = [json.loads(text, parse_constant=reject) for text in (run / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines]
    assert iterations == sorted(set(iterations)) and iterations[-1] == 8


class TestDifferences:
    """What a resumed run has otherwise is listed in one block, each as old -> new."""

    CHANGES = {
        "optimizer.lr": "2e-4",
        "optimizer.weight_decay": "0.01",
        "dataloader.train.total_batch_size": "8",
        "train.seed": "4",
        "train.accumulate_steps": "2",
        "train.clip_grad.params.max_norm": "0.2",
        "model.queries.groups": "3",
        "dataset.short_edge": "24",
        "dataset.mosaic": "0.5",
        "train.max_iter": "6",
        "train.amp.enabled": "true",
    }

    def test_all_that_was_changed(self, shapes_data, run):
        more = (*SHORT, *(f"{key}={value}" for key, value in self.CHANGES.items()))
        assert in_process(train, shapes_data, run, more, resume=True) == 0
        block = self.block(run)
        for key in self.CHANGES:
            assert re.search(rf"^  {re.escape(key)}: \S.* -> \S", block, re.M), key
        assert "optimizer.lr: 0.0001 -> 0.0002" in block or "optimizer.lr: " in block
        assert "total_batch_size: 4 -> 8 (the data goes on at image 32 of its sequence, not at 16)" in block
        assert "precision: 'fp32' -> " in block and "output_dir" not in block
        assert len(block.splitlines()) == len(self.CHANGES) + 2

    def test_nothing_is_told_where_nothing_differs(self, shapes_data, run):
        assert in_process(train, shapes_data, run, (*SHORT, "train.max_iter=12"), resume=True) == 0
        assert "what differs" not in (run / "log.txt").read_text()

    def test_the_checkpoint_s_values_where_they_are_asked_for(self, shapes_data, run):
        before = config(shapes_data, run)
        changed = {"optimizer.lr": "2e-4", "train.seed": "4", "dataloader.train.total_batch_size": "2"}
        more = (*SHORT, *(f"{key}={value}" for key, value in changed.items()))
        more += ("train.max_iter=6", "train.resume_override=checkpoint", "dataset.short_edge=24")
        assert in_process(train, shapes_data, run, more, resume=True) == 0
        log = (run / "log.txt").read_text()
        assert "  dataset.short_edge: " in self.block(run) and "  optimizer.lr: 0.0002 -> " in log
        final = read_checkpoint(run / "model_final.pth")
        rates = {group["initial_lr"] for group in final["trainer"]["optimizer"]["param_groups"]}
        assert before.optimizer.lr in rates and final["seed"] == 3
        assert "(reference 16), lr 2e-4" not in log

    def test_other_groups_of_the_optimizer(self, shapes_data, run):
        before = {p.name: p.read_bytes() for p in run.glob("*.pth")}
        cfg = ("+optimizer.params.overrides.weight={weight_decay: 0.5}", "train.max_iter=6")
        with pytest.raises(UserError, match=r"its optimizer has groups of [\d, ]+ parameters, this one of \d"):
            train(shapes_data, run, cfg, resume=True)
        assert before == {p.name: p.read_bytes() for p in run.glob("*.pth")}

    @staticmethod
    def block(run) -> str:
        """Its lines, as the log has them."""
        text = (run / "log.txt").read_text()
        return re.search(r"resume: what differs from .*\n(?:  .*\n)+", text)[0]
