"""What a resumed training is told of its checkpoint, whatever config that holds, and from whom a rank has it."""

from __future__ import annotations

import logging
import os

import pytest
from narrow import overrides

from detrex_ext.checkpoint import Saved
from detrex_ext.config import LazyConfig, load_config
from detrex_ext.engine.resuming import take_saved, tell
from detrex_ext.errors import UserError

NOW = {"precision": "fp32"}


@pytest.fixture(autouse=True)
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    return caplog


@pytest.fixture(scope="module")
def cfg():
    return load_config("small", (), overrides("data", "out"))


def saved(text, **more) -> Saved:
    return Saved("run/model_0000003.pth", {"config": text, **more})


HOSTILE = {
    "cut": "train: {",
    "alias bomb": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "call": "!!python/object/apply:os.system [touch called]",
    "name": "train: {seed: !!python/name:os.system ''}",
    "module": "train: {seed: !!python/name:antigravity.x ''}",
    "list": "[1]",
    "number": "3",
    "empty": "",
    "NUL": "\0",
    "deep": "[" * 10_000,
    "digits": "train: {seed: " + "9" * 5000 + "}",
    "no sections": "{}",
    "sections of texts": "{train: a, model: b, optimizer: c}",
    "reference": "train: {seed: '${oc.env:HOME}', max_iter: '${nowhere}'}",
}


@pytest.mark.parametrize("override", ["config", "checkpoint"])
@pytest.mark.parametrize("name", HOSTILE)
def test_any_text_for_a_config(cfg, tmp_path, monkeypatch, name, override):
    """Nothing is run or imported, and nothing raises but for values that the option cannot have."""
    monkeypatch.chdir(tmp_path)
    cfg = cfg.copy()
    cfg.train.resume_override = override
    before = LazyConfig.dumps(cfg)
    try:
        tell(saved(HOSTILE[name]), cfg, NOW, 4, take_saved(cfg, saved(HOSTILE[name])))
    except UserError as error:
        assert override == "checkpoint" and "train.seed" in str(error) and name == "digits"
    else:
        assert LazyConfig.dumps(cfg) == before
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("config", [None, 7, [1], {"a": 1}, b"x"])
def test_no_text_at_all(cfg, config, messages):
    tell(Saved("x.pth", {"config": config}), cfg, NOW, 4)
    tell(Saved("x.pth", {"rng": {"ranks": 3}}), cfg, NOW, 4)
    tell(Saved("x.pth", {"rng": "x"}), cfg, NOW, 4)
    assert not messages.text


def test_a_run_of_an_earlier_version_is_told_of_what_is_not_as_shipped(cfg, messages):
    """Options that it did not know have their shipped value: no difference."""
    then = cfg.copy()
    del then.train["resume_override"], then.train["early_stop"], then.train.best_checkpoint["restore"]
    then.optimizer.lr = 0.5
    now = cfg.copy()
    now.train.early_stop.patience = 3
    tell(saved(LazyConfig.dumps(then)), now, NOW, 4)
    lines = messages.records[0].getMessage().splitlines()
    assert len(messages.records) == 1 and len(lines) == 3
    assert "  train.early_stop: not set -> {'patience': 3, 'min_delta': 0.0}" in lines
    assert f"  optimizer.lr: 0.5 -> {cfg.optimizer.lr}" in lines


def test_processes_and_precision(cfg, messages):
    tell(saved(LazyConfig.dumps(cfg), rng={"ranks": [{}, {}]}, precision="bf16"), cfg, NOW, 4)
    lines = messages.records[0].getMessage().splitlines()[1:]
    assert lines == ["  processes: 2 -> 1 (random numbers go on differently)", "  precision: 'bf16' -> 'fp32'"]


def test_what_the_checkpoint_s_values_are_taken_for(cfg, messages):
    then, now = cfg.copy(), cfg.copy()
    for key, value in {"lr": 0.5, "weight_decay": 0.25}.items():
        then.optimizer[key] = value
    then.train.max_iter, then.train.device, then.train.output_dir, then.train.seed = 7, "cuda", "/elsewhere", 9
    then.optimizer._target_ = "torch.optim.SGD"
    now.train.resume_override = "checkpoint"
    taken = take_saved(now, saved(LazyConfig.dumps(then)))
    assert {key for key, *_ in taken} == {"optimizer.lr", "optimizer.weight_decay", "train.seed"}
    assert (now.optimizer.lr, now.optimizer.weight_decay, now.train.seed) == (0.5, 0.25, 9)
    same = ("train.max_iter", "train.device", "train.output_dir")
    assert all(now.train[key[6:]] == cfg.train[key[6:]] for key in same)
    tell(saved(LazyConfig.dumps(then)), now, NOW, 4, taken)
    text = messages.records[0].getMessage()
    assert "optimizer._target_: 'torch.optim.SGD' -> " in text and "train.max_iter: 7 -> " in text
    assert f"in place of the config's\n  optimizer.lr: {cfg.optimizer.lr} -> 0.5\n" in text


def test_values_of_the_checkpoint_are_held_to_what_options_may_be(cfg):
    then, now = cfg.copy(), cfg.copy()
    then.optimizer.lr = -1.0
    now.train.resume_override = "checkpoint"
    with pytest.raises(UserError, match="optimizer.lr"):
        take_saved(now, saved(LazyConfig.dumps(then)))
