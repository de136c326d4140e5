"""A training whose matching changes by its progress: stopped before the change or after it, it goes on to the bit."""

from __future__ import annotations

import signal

import pytest
import torch
from training import Flags, assert_same_run, die, in_process, metrics, overrides

from detrex_ext.config import load_config


def train(data, out, since=0.55, resume=False, kill_in=None):
    """``configs/small.py`` under the overlay ``high_order``, narrow, for 10 steps."""
    from detrex_ext import engine

    torch.set_num_threads(1)
    if kill_in is not None:
        inner = engine.Trainer._forward_backward
        engine.Trainer._forward_backward = lambda self, batch: die() if self.iter == kill_in else inner(self, batch)
    engine.train(load_config("small", [("high_order", {"since": since})], overrides(data, out)), Flags(resume))


@pytest.mark.slow
def test_a_killed_run_changes_its_matching_when_an_uninterrupted_one_does(shapes_data, tmp_path):
    whole, never = tmp_path / "whole", tmp_path / "never"
    assert in_process(train, shapes_data, whole) == 0
    assert in_process(train, shapes_data, never, since=1.0) == 0
    losses = [[line["total_loss"] for line in metrics(out) if "total_loss" in line] for out in (whole, never)]
    assert losses[0][0] == losses[1][0] and losses[0][-1] != losses[1][-1]
    for kill_in in (5, 8):  # steps 3 and 7 are saved
        out = tmp_path / str(kill_in)
        assert in_process(train, shapes_data, out, kill_in=kill_in) == -signal.SIGKILL
        assert in_process(train, shapes_data, out, resume=True) == 0
        assert_same_run(whole, out)
