"""A training by SGD and AdamW together, killed and resumed, equals one that was not, to the bit."""

from __future__ import annotations

import signal

import pytest
import torch
from training import Flags, assert_same_run, config, die, in_process, metrics


def train_two(data, out, resume=False, kill=False):
    """Clipped on AdamW's part alone, with an average and a schedule."""
    from detrex_ext import engine
    from detrex_ext.config import get_config

    torch.set_num_threads(1)
    if kill:
        inner = engine.EMAHook.after_step
        engine.EMAHook.after_step = lambda self: die() if self.trainer.iter == 5 else inner(self)
    cfg = config(data, out)
    cfg.optimizer = get_config("common/optim.py").SGDAndAdamW
    cfg.optimizer.params.adamw = ["decoder."]
    cfg.train.clip_grad.update(enabled=True, only=["decoder."])
    cfg.train.clip_grad.params.max_norm = 0.01
    engine.train(cfg, Flags(resume))


def test_a_killed_run_of_two_optimizers_goes_on_as_if_nothing_had_happened(shapes_data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_process(train_two, shapes_data, whole) == 0
    assert in_process(train_two, shapes_data, killed, kill=True) == -signal.SIGKILL
    assert in_process(train_two, shapes_data, killed, resume=True) == 0
    assert_same_run(whole, killed)
    last = [line for line in metrics(whole) if "lr" in line][-1]
    assert last["lr_adamw"] == pytest.approx(last["lr"] / 100) and last["grad_norm"] > 0.01
    state = torch.load(whole / "model_final.pth", weights_only=True)["trainer"]["optimizer"]
    assert {frozenset(values) for values in state["state"].values()} == {
        frozenset(("momentum_buffer",)), frozenset(("step", "exp_avg", "exp_avg_sq")),
    }  # fmt: skip
    assert "lr 0.01, of AdamW's part 0.0001" in (whole / "log.txt").read_text()
