"""A distilled training that is killed and resumed asks its teacher again, and equals one that was not, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from training import Flags, assert_same_run, config, die, in_process, train

from detrex_ext.errors import UserError
from detrex_ext.matching import GivenMatcher


def distilled(data: Path, out: Path, teacher: Path, resume: bool = False, kill: bool = False) -> None:
    from detrex_ext import engine
    from detrex_ext.config import apply_overlay

    torch.set_num_threads(1)
    if kill:
        inner = engine.Trainer._forward_backward
        engine.Trainer._forward_backward = lambda self, batch: die() if self.iter == 5 else inner(self, batch)
    cfg = apply_overlay(config(data, out, "train.seed=4"), "distill", teacher=str(teacher))
    engine.train(cfg, Flags(resume))


@pytest.fixture(scope="module")
def teacher(shapes_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher")
    assert in_process(train, shapes_data, out, ("train.max_iter=3",)) == 0
    return out


def test_a_killed_distilled_run_ends_like_the_other(teacher, shapes_data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_process(distilled, shapes_data, whole, teacher) == 0
    assert in_process(distilled, shapes_data, killed, teacher, kill=True) == -signal.SIGKILL
    assert in_process(distilled, shapes_data, killed, teacher, resume=True) == 0
    assert_same_run(whole, killed)
    assert GivenMatcher.__name__ in (killed / "config.yaml").read_text()
    assert (killed / "log.txt").read_text().count("teacher: ") == 2  # of the start and of the resumed run


def test_a_run_whose_teacher_is_gone_says_so_when_it_is_resumed(teacher, shapes_data, tmp_path):
    gone, out = tmp_path / "gone", tmp_path / "out"
    gone.mkdir()
    for file in ("config.yaml", "model_final.pth"):
        (gone / file).write_bytes((teacher / file).read_bytes())
    assert in_process(distilled, shapes_data, out, gone, kill=True) == -signal.SIGKILL
    (gone / "model_final.pth").unlink()
    before = sorted(file.name for file in out.iterdir())
    with pytest.raises(UserError, match="gone"):
        distilled(shapes_data, out, gone, resume=True)
    assert set(before) <= {file.name for file in out.iterdir()}
