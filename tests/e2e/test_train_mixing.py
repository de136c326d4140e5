"""Trainings with mosaic and mixup in a part of them, and trainings as long as the number of images asks for."""

from __future__ import annotations

import signal
from functools import partial
from itertools import pairwise

import pytest
import torch
from training import Flags, assert_same_run, config, die, in_process, metrics, overrides, train

from detrex_ext.config import load_config
from detrex_ext.data.mixing import Mixing

MIXED = ("dataset.mosaic=0.7", "dataset.mixup=0.5", "dataset.plain_from=0.7")
WORKERS = ("dataloader.train.num_workers=2", "+dataloader.train.prefetch_factor=3")


def killed_in_5():
    """While images are mixed; step 3 is saved."""
    _killed_in(5)


def killed_in_8():
    """When they are no more; step 7 is saved."""
    _killed_in(8)


def _killed_in(iteration: int):
    from detrex_ext.engine import Trainer

    inner = Trainer._forward_backward
    Trainer._forward_backward = lambda self, batch: die() if self.iter == iteration else inner(self, batch)


@pytest.fixture(scope="module")
def whole(shapes_data, tmp_path_factory):
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert in_process(train, shapes_data, out, MIXED) == 0
    return out


@pytest.mark.parametrize("moment, more", [(killed_in_5, ()), (killed_in_8, ()), (killed_in_5, WORKERS)])
def test_a_killed_run_goes_on_in_every_part(moment, more, shapes_data, whole, tmp_path):
    assert in_process(train, shapes_data, tmp_path, (*MIXED, *more), sabotage=moment) == -signal.SIGKILL
    assert in_process(train, shapes_data, tmp_path, (*MIXED, *more), resume=True) == 0
    assert_same_run(whole, tmp_path)


def test_it_changes_the_training_and_is_told(shapes_data, whole, tmp_path):
    assert in_process(train, shapes_data, tmp_path) == 0
    assert metrics(tmp_path)[0]["total_loss"] != metrics(whole)[0]["total_loss"]
    assert "most crowded image (at most" not in (tmp_path / "log.txt").read_text()
    assert "where 5 are mixed); model.queries.source.num_queries=10" in (whole / "log.txt").read_text()


def test_by_the_clock_the_parts_follow_its_progress(shapes_data, tmp_path, monkeypatch):
    from detrex_ext import engine

    seen, inner = [], Mixing.__call__

    def spy(self, sample, rng, progress, other):
        seen.append(progress)
        return inner(self, sample, rng, progress, other)

    monkeypatch.setattr(Mixing, "__call__", spy)
    torch.set_num_threads(1)
    engine.train(config(shapes_data, tmp_path, *MIXED, "train.minutes=0.1", "train.log_period=50"), Flags())
    # how near to 1 the last step begins depends on how many a busy machine makes of six seconds
    assert seen[0] == 0 and 0.5 < seen[-1] <= 1
    # once: the first plan may be longer than what was guessed before a step was measured
    assert sum(after < before for before, after in pairwise(seen)) <= 1
    assert {0.3 < p < 0.7 for p in seen} == {True, False}


def photos(data, out, more=(), resume=False, sabotage=None):
    """``configs/photos.py`` without pretrained weights, narrow, of 12 images in batches of 4."""
    import detrex_ext.checkpoint
    from detrex_ext import engine

    torch.set_num_threads(1)
    detrex_ext.checkpoint.has_pretrained = lambda name: False
    if sabotage is not None:
        sabotage()
    null = [f"train.{key}=null" for key in ("minutes", "max_iter", "eval_period")]
    engine.train(load_config("photos", (), [*overrides(data, out), *null, *more]), Flags(resume))


def test_the_recipe_for_photographs_repeats_to_the_bit(shapes_data, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    length = ("train.epochs=3.2", "train.early_stop.patience=20", *MIXED)
    assert in_process(photos, shapes_data, a, length) == 0
    assert "data: 12 images in batches of 4: train.max_iter=10, 3.33 epochs" in (a / "log.txt").read_text()
    written = load_config(a).train
    assert (written.max_iter, written.epochs, written.eval_period, written.minutes) == (10, None, 1, None)
    assert metrics(a)[-1]["iteration"] == 10

    assert in_process(photos, shapes_data, b, length, sabotage=killed_in_5) == -signal.SIGKILL
    assert in_process(photos, shapes_data, b, length, resume=True) == 0
    assert_same_run(a, b)
    again = tmp_path / "c"
    assert in_process(photos, shapes_data, again, length) == 0
    assert_same_run(a, again)


DENSE = ("dataset.mixed_from=0.2", "dataset.plain_from=0.5", "dataset.bare_from=0.8", "train.checkpointer.period=1")


def dense(data, out, more=(), resume=False, sabotage=None):
    """The narrow training under the overlay ``dense_o2o``."""
    from detrex_ext import engine

    torch.set_num_threads(1)
    if sabotage is not None:
        sabotage()
    engine.train(load_config("small", ["dense_o2o"], [*overrides(data, out), *DENSE, *more]), Flags(resume))


@pytest.fixture(scope="module")
def whole_dense(shapes_data, tmp_path_factory):
    """A run without interruption."""
    out = tmp_path_factory.mktemp("dense")
    assert in_process(dense, shapes_data, out) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), WORKERS])
@pytest.mark.parametrize("iteration", [1, 3, 6, 9])
def test_dense_one_to_one_goes_on_in_each_of_its_parts(iteration, more, shapes_data, whole_dense, tmp_path):
    killed = partial(_killed_in, iteration)
    assert in_process(dense, shapes_data, tmp_path, more, sabotage=killed) == -signal.SIGKILL
    assert in_process(dense, shapes_data, tmp_path, more, resume=True) == 0
    assert_same_run(whole_dense, tmp_path)
