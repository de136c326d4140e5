"""Trainings that end by the clock, or early, or are killed before their best weights are restored."""

from __future__ import annotations

import json
import logging
import math
import re
import time

import pytest
import torch
from training import Flags, assert_equal, config, die, in_process, metrics, overrides, train

from detrex_ext import load
from detrex_ext.checkpoint import find_weights, read_checkpoint
from detrex_ext.cli import dispatch
from detrex_ext.engine.evaluation_record import as_record

EARLY = ("train.early_stop.patience=1", "train.best_checkpoint.restore=true", "train.checkpointer.max_to_keep=10")


def falling():
    """The AP falls from evaluation to evaluation, and the threshold says of which it is."""
    from detrex_ext.engine.run import _Run

    def evaluate(self):
        at = self.trainer.storage.iter
        logging.getLogger("detrex_ext").info("evaluated at %d", at)
        self.results = {"bbox": {"AP": 10.0 - at}, "bbox_f1": {"threshold": at / 100, "F1": 50.0}}
        return self.results

    _Run.evaluate = evaluate


def killed_before_restoring():
    from detrex_ext.engine.ending import RestoreBest

    falling()
    RestoreBest.after_train = lambda self: die()


def check_best(out):
    final, best = (read_checkpoint(out / f"model_{name}.pth") for name in ("final", "best"))
    assert final["iteration"] == best["iteration"] == 3
    assert final["ended"]["after"] == 8
    assert (final["threshold"]["score"], final["threshold"]["iteration"]) == (0.03, 3)
    for part in ("model", "ema_state", "trainer", "rng"):
        assert_equal(final[part], best[part], part)
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert not (out / "model_0000009.pth").exists()  # nothing was trained after the stop
    check_metrics(out)


def check_metrics(out):
    """Those in the folder are of the final weights."""
    record = json.loads((out / "evaluation.json").read_text())
    assert record["results"]["bbox"]["AP"] == 7.0 and record["best_iteration"] == 3


def test_an_evaluation_without_gain_ends_it_and_the_best_weights_are_the_final_ones(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, EARLY, sabotage=falling) == 0
    check_best(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert re.findall(r"evaluated at (\d+)", log) == ["3", "7"]  # that of the end is the second
    assert "bbox/AP gained nothing in 1 evaluations: the training ends after 8 of 10 iterations" in log
    assert "model_final.pth holds the best weights: bbox/AP 7.0000 after 4 of 8 iterations" in log
    assert "after 4 iterations, averaged weights" in str(find_weights(tmp_path))
    assert load(tmp_path).threshold.score == pytest.approx(0.03)

    before = (tmp_path / "model_final.pth").read_bytes(), metrics(tmp_path)
    assert in_process(train, shapes_data, tmp_path, EARLY, resume=True, sabotage=falling) == 0
    assert before == ((tmp_path / "model_final.pth").read_bytes(), metrics(tmp_path))
    assert "8 of 8 iterations are done: nothing to train" in (tmp_path / "log.txt").read_text()

    # another length goes on, from the best
    more = (*EARLY, "train.early_stop.patience=0")
    assert in_process(train, shapes_data, tmp_path, more, resume=True, sabotage=falling) == 0
    assert "Starting training from iteration 4" in (tmp_path / "log.txt").read_text()
    assert read_checkpoint(tmp_path / "model_final.pth")["ended"]["after"] == 10


def test_a_run_killed_before_the_best_was_restored_restores_it_when_resumed(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, EARLY, sabotage=killed_before_restoring) == -9
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 7
    assert in_process(train, shapes_data, tmp_path, EARLY, resume=True, sabotage=falling) == 0
    check_best(tmp_path)


def test_without_early_stop_the_best_is_restored_after_the_last_iteration(shapes_data, tmp_path):
    more = ("train.best_checkpoint.restore=true",)
    assert in_process(train, shapes_data, tmp_path, more, sabotage=falling) == 0
    final = read_checkpoint(tmp_path / "model_final.pth")
    assert (final["iteration"], final["ended"]["after"]) == (3, 10)
    assert in_process(train, shapes_data, tmp_path, more, resume=True, sabotage=falling) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "10 of 10 iterations are done: nothing to train" in log
    assert re.findall(r"evaluated at (\d+)", log) == ["3", "7", "10"]  # the figures of a finished run are known
    check_metrics(tmp_path)


def test_a_restored_run_that_is_made_longer_knows_the_figures_of_the_weights_it_goes_on_from(shapes_data, tmp_path):
    more = ("train.best_checkpoint.restore=true",)
    assert in_process(train, shapes_data, tmp_path, more, sabotage=falling) == 0
    longer = (*more, "train.max_iter=12")
    assert in_process(train, shapes_data, tmp_path, longer, resume=True, sabotage=falling) == 0
    log = (tmp_path / "log.txt").read_text()
    assert re.findall(r"evaluated at (\d+)", log) == ["3", "7", "10", "7", "12"]  # it goes on from iteration 3
    check_metrics(tmp_path)


def test_a_record_in_a_checkpoint_that_is_none_is_not_written(tmp_path):
    good = {"iteration": 3, "key": "k", "results": {"bbox": {"AP": None}}}
    assert math.isnan(as_record(good)["results"]["bbox"]["AP"])
    for bad in (
        None,
        [],
        "text",
        {},
        {**good, "iteration": "three"},
        {**good, "iteration": math.inf},
        {**good, "results": {"bbox": {"AP": "high"}}},
        {**good, "results": [1.0]},
        {**good, "results": {"bbox": torch.zeros(2)}},
        {**good, "best_iteration": []},
    ):
        assert as_record(bad) is None, bad


def test_while_images_are_mixed_no_evaluation_counts_against_the_training(shapes_data, tmp_path):
    more = (*EARLY, "dataset.mosaic=0.5", "dataset.plain_from=0.75")
    assert in_process(train, shapes_data, tmp_path, more, sabotage=falling) == 0
    assert "ends after" not in (tmp_path / "log.txt").read_text()
    more = (*EARLY, "dataset.mosaic=0.5", "dataset.plain_from=0.7", "train.overwrite=true")
    assert in_process(train, shapes_data, tmp_path, more, sabotage=falling) == 0
    assert "the training ends after 8 of 10 iterations" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_training_of_twelve_seconds(shapes_data, tmp_path):
    from detrex_ext import engine

    torch.set_num_threads(1)
    more = ("train.minutes=0.2", "train.best_checkpoint.restore=true", "train.early_stop.patience=20")
    began = time.monotonic()
    engine.train(config(shapes_data, tmp_path, *more, "train.log_period=1"), Flags())
    seconds = time.monotonic() - began
    assert 9 < seconds < 18  # 12 on a machine whose speed stays; tests may share theirs with others
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"train.minutes=0.2: \d+ steps of [\d.e-]+ s, \d+ evaluations of about", log)
    assert "are warm-up" not in log
    lines = metrics(tmp_path)
    done = lines[-1]["iteration"]
    assert done > 20 and sum("bbox/AP" in line for line in lines) >= 2
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] < done
    engine.train(config(shapes_data, tmp_path, *more), Flags(resume=True))
    assert "nothing to train" in (tmp_path / "log.txt").read_text()


def test_what_goes_by_the_best_needs_it(shapes_data, tmp_path):
    from detrex_ext import engine
    from detrex_ext.errors import UserError

    more = (*EARLY, "train.best_checkpoint.enabled=false")
    with pytest.raises(UserError, match="train.early_stop.patience goes by the best checkpoint"):
        engine.train(config(shapes_data, tmp_path, *more), Flags())
    assert not list(tmp_path.glob("model_*"))


def test_a_length_that_is_typed_counts_before_the_clock_of_the_config(shapes_data, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    (tmp_path / "clock.py").write_text("def apply(cfg):\n    cfg.train.minutes = 600\n    return cfg\n")
    words = ["train", "--config-file", "small", "--overlay", "clock.py", *overrides(shapes_data, tmp_path / "run")]
    assert dispatch([*words, "train.max_iter=3"]) == 0
    said = capfd.readouterr().out
    assert "train.max_iter is typed: train.minutes=600 of the config does not count\n" in said
    assert metrics(tmp_path / "run")[-1]["iteration"] == 3
    assert f"no report: fewer than 100 steps; python -m detrex_ext report {tmp_path / 'run'}" in said
    run = ["train", "--config-file", str(tmp_path / "run"), "--resume", "train.max_iter=5", "train.minutes=0.001"]
    assert dispatch(run) == 0  # both are typed: the clock goes first, as the option says
    said = capfd.readouterr().out
    assert "is typed" not in said and "train.minutes=0.001: " in said
