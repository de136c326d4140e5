"""Checkpoints, evaluation, the best weights, random states, the folder of a run."""

from __future__ import annotations

import json
import logging
import math
import random
import signal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_engine_trainer import trainer

from detrex_ext import get_config
from detrex_ext.checkpoint import Checkpointer, read_checkpoint
from detrex_ext.config import load_config, save_config
from detrex_ext.engine import (
    BestCheckpointer,
    EvalHook,
    PeriodicCheckpointer,
    SignalHook,
    TrainerBase,
    build_optimizer,
    hooks,
    rng,
    setup,
)
from detrex_ext.engine.hooks import DataShare
from detrex_ext.errors import UserError
from detrex_ext.runtime import instantiate


def run(tmp_path, steps=10, start=0, scores=None, period=3, keep=None, mode="max"):
    """A training with checkpoints and evaluations that return the given scores by iteration."""
    t = trainer()
    calls = []

    def evaluate():
        torch.rand(3)  # an evaluation may draw numbers
        iteration = t.storage.iter
        calls.append(iteration)
        return {"bbox": {"AP": (scores or {}).get(iteration, 0.0)}}

    checkpointer = Checkpointer(t.model, str(tmp_path), trainer=t, rng=t.rng)
    best = BestCheckpointer(checkpointer, 2, "bbox/AP", mode)
    t.register_hooks(
        [PeriodicCheckpointer(checkpointer, period, keep), EvalHook(2, evaluate, folder=str(tmp_path)), best]
    )
    if start:
        checkpointer.resume()
    t.train(start, steps)
    return t, calls, best


def names(tmp_path):
    return sorted(p.name for p in tmp_path.glob("model_*"))


def test_periodic_and_final_files(tmp_path):
    run(tmp_path)
    assert names(tmp_path) == [f"model_000000{i}.pth" for i in (2, 5, 8)] + ["model_best.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert read_checkpoint(tmp_path / "model_0000005.pth")["iteration"] == 5


def test_old_files_are_removed_those_of_an_earlier_start_too(tmp_path):
    run(tmp_path, steps=6, keep=2)
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    run(tmp_path, steps=12, start=6, keep=2)
    assert [n for n in names(tmp_path) if "0000" in n] == ["model_0000008.pth", "model_0000011.pth"]


def test_evaluation_runs_each_period_and_once_at_the_end(tmp_path):
    t, calls, _ = run(tmp_path, steps=6)
    assert calls == [1, 3, 6]
    assert [i for _, i in t.storage.history("bbox/AP").values()] == [1, 3, 6]
    assert json.loads((tmp_path / "evaluation.json").read_text())["iteration"] == 6


def test_a_failed_training_is_not_evaluated(tmp_path):
    t = trainer()
    calls = []

    def step():
        raise RuntimeError("stop")

    t.run_step = step
    t.register_hooks([EvalHook(1, lambda: calls.append(1) or {})])
    with pytest.raises(RuntimeError, match="stop"):
        t.train(0, 1)
    assert calls == []


def test_evaluation_leaves_random_numbers_alone(tmp_path):
    with rng.preserved():
        trainer().train(0, 6)  # building the model sets the seed
        without = torch.rand(1)
        _, calls, _ = run(tmp_path, steps=6)
        assert calls and torch.equal(torch.rand(1), without)


def test_resuming_evaluates_what_was_due_or_takes_the_known_figures(tmp_path):
    run(tmp_path, steps=6, period=2)
    for name in ("model_final.pth", "model_0000005.pth"):
        (tmp_path / name).unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    (tmp_path / "evaluation.json").write_text('{"iteration": 3, "key": "", "results": {"bbox": {"AP": null}}}')
    t, calls, _ = run(tmp_path, steps=6, start=4, period=2)
    assert calls == [6]
    figures = {i: v for v, i in t.storage.history("bbox/AP").values()}
    assert math.isnan(figures[3]) and list(figures) == [1, 3, 6]
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    (tmp_path / "evaluation.json").write_text("{")
    _, calls, _ = run(tmp_path, steps=6, start=4, period=2)
    assert calls == [3, 6]


@pytest.mark.parametrize("mode, best_iter", [("max", 3), ("min", 5)])
def test_the_best_is_kept_and_not_resumed_from(tmp_path, mode, best_iter):
    scores = {1: 5.0, 3: 9.0, 5: 1.0, 7: math.nan, 10: 5.0}
    _, _, best = run(tmp_path, scores=scores, mode=mode)
    assert best.best_iter == best_iter
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == best_iter
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_best_of_the_last_evaluation_is_not_resumed_from_either(tmp_path):
    run(tmp_path, scores={10: 9.0})
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == 9
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_best_is_remembered_over_a_resume(tmp_path):
    run(tmp_path, steps=6, scores={1: 9.0}, period=2)
    _, _, best = run(tmp_path, steps=10, start=6, scores={7: 8.0, 10: 3.0}, period=2)
    assert (best.best, best.best_iter) == (9.0, 1)
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == 1


def test_a_run_that_is_made_longer_keeps_the_best_of_its_last_evaluation(tmp_path, caplog):
    run(tmp_path, steps=5, scores={1: 2.0, 3: 1.0, 5: 9.0}, period=5)
    assert read_checkpoint(tmp_path / "model_final.pth")["trainer"]["hooks"]["BestCheckpointer"]["best"] == 2.0
    with caplog.at_level("INFO"):
        _, calls, best = run(tmp_path, steps=8, start=5, scores={5: 3.0, 8: 4.0}, period=5)
    assert calls == [5, 8] and (best.best, best.best_iter) == (9.0, 4)
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == 4
    assert "best bbox/AP so far: 9.0000 after 5 iterations" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(iteration=5),
        lambda data: data.update(iteration="4"),
        lambda data: data.update(evaluated="ema_state"),
        lambda data: data["trainer"]["hooks"]["BestCheckpointer"].update(of=["segm/AP", "max", "model", ""]),
        lambda data: data["trainer"]["hooks"]["BestCheckpointer"].update(best=math.nan),
        lambda data: data["trainer"]["hooks"]["BestCheckpointer"].update(best=None),
        lambda data: data["trainer"].update(hooks=["BestCheckpointer"]),
        lambda data: data.pop("trainer"),
        None,
    ],
    ids="of-the-future of-no-number other-weights other-metric nan none list no-state no-file".split(),
)
def test_a_best_that_does_not_compare_is_not_taken(tmp_path, change):
    run(tmp_path, steps=5, scores={5: 9.0}, period=5)
    path = tmp_path / "model_best.pth"
    if change is None:
        path.write_bytes(b"no checkpoint")
    else:
        data = torch.load(path, weights_only=True)
        change(data)
        torch.save(data, path)
    _, _, best = run(tmp_path, steps=8, start=5, scores={5: 3.0, 7: 2.0, 8: 4.0}, period=5)
    assert (best.best, best.best_iter) == (4.0, 7)
    assert read_checkpoint(path)["iteration"] == 7


def test_a_best_of_another_metric_in_the_checkpoint_is_forgotten(tmp_path, caplog):
    best = run(tmp_path, steps=4, scores={1: 9.0})[2]
    state = best.state_dict()
    other = BestCheckpointer(best.checkpointer, 2, "bbox/AP50")
    other.load_state_dict(state)
    assert other.best is None and "the best is forgotten" in caplog.text
    best.forget()
    best.load_state_dict({k: v for k, v in state.items() if k != "of"})  # as it was written before
    assert best.best == 9.0


def test_random_states_come_back():
    state = rng.get_state()
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    rng.set_state(state)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; a shell starts its background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_signals_are_noted_and_repeated_ones_taken_for_one(monkeypatch, interruptible):
    t = trainer()
    hook = SignalHook()
    t.register_hooks([hook])
    before = signal.getsignal(signal.SIGTERM)
    hook.before_train()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert t.stop_signal == signal.SIGTERM
    monkeypatch.setattr(hook, "TOGETHER", -1.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


class TestConfig:
    def test_the_batch_line(self):
        cfg = OmegaConf.create(
            {
                "dataloader": {"train": {"total_batch_size": 16}},
                "train": {"accumulate_steps": 8, "device": "cuda", "reference_batch": 16},
                "optimizer": {"lr": 1e-4},
            }
        )
        assert setup.batch_line(cfg) == "batch 2 x 1 GPU x 8 accum = 16 (reference 16), lr 0.0001"

    def test_the_number_of_classes_is_the_data_s(self):
        classes = setup.Classes(["bolt", "nut"], [1, 7])
        cfg = OmegaConf.create({"model": {"num_classes": None}})
        setup.set_num_classes(cfg, classes, "train.json")
        assert cfg.model.num_classes == 2
        cfg.model.num_classes = 80
        with pytest.raises(UserError, match=r"num_classes=80, but train.json has 2 classes \(bolt, nut\)"):
            setup.set_num_classes(cfg, classes, "train.json")

    @staticmethod
    def whole(**train):
        """A config with every section, of which only ``train`` holds anything."""
        return OmegaConf.create({"train": train, "model": {}, "dataloader": {}, "optimizer": {}, "lr_multiplier": {}})

    def test_what_a_config_leaves_out_is_filled_in(self):
        cfg = self.whole(max_iter=7, model_ema={"enabled": True})
        setup.settle(cfg)
        assert (cfg.train.max_iter, cfg.train.model_ema.enabled) == (7, True)
        assert (cfg.train.accumulate_steps, cfg.train.model_ema.decay) == (1, 0.999)
        del cfg["optimizer"]
        with pytest.raises(UserError, match="the config has no 'optimizer'; to train it needs train, model"):
            setup.settle(cfg)

    def test_values_that_cannot_be(self):
        cfg = self.whole(max_iter=0)
        with pytest.raises(UserError, match="train.max_iter=0: expected at least 1"):
            setup.settle(cfg)

    def test_fast_dev_run_is_short(self):
        cfg = self.whole(fast_dev_run={"enabled": True})
        setup.settle(cfg)
        assert (cfg.train.max_iter, cfg.train.eval_period, cfg.train.log_period) == (20, 10, 1)

    @pytest.mark.parametrize("name", ["50ep", "36ep", "24ep", "12ep", "cosine", "constant_cosine"])
    def test_schedules_of_the_config(self, name):
        cfg = OmegaConf.create({"train": {"max_iter": 1000}}, flags={"allow_objects": True})
        cfg.lr_multiplier = get_config("common/schedule.py")[f"lr_multiplier_{name}"]
        cfg.lr_multiplier.warmup_iters = 10
        schedule = instantiate(cfg.lr_multiplier)
        assert schedule(0.0) == pytest.approx(0.001) and schedule(0.01) == pytest.approx(1.0, abs=1e-3)
        assert schedule(0.999) == pytest.approx(0.1 if name.endswith("ep") else 0.01, rel=0.05)

    def test_groups_without_decay_on_vectors_and_with_a_slow_backbone(self, tmp_path):
        parts = dict(
            backbone=torch.nn.Linear(2, 2), norm=torch.nn.LayerNorm(2), attn=torch.nn.MultiheadAttention(2, 1)
        )
        model, file = torch.nn.ModuleDict(parts), tmp_path / "c.py"
        file.write_text(
            "from detrex_ext import get_config\n"
            "from detrex_ext.engine import LrFactor\n"
            "from detrex_ext.runtime import LazyCall as L\n"
            "optimizer = get_config('common/optim.py').AdamW\n"
            "optimizer.params.lr_factor_func = L(LrFactor)(factors={'backbone': 0.1})\n"
            "optimizer.params.weight_decay_bias = 0.0\n"
            "optimizer.params.overrides = {'in_proj_bias': dict(weight_decay=0.0)}\n"
            "optimizer.fused = True\n"
        )
        cfg = load_config(file)
        save_config(cfg, tmp_path / "config.yaml")
        for one in (cfg, load_config(tmp_path / "config.yaml")):
            optimizer = build_optimizer(one, model)
            assert "model" not in one.optimizer.params
            decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
            rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
            for name, p in model.named_parameters():
                assert decay[id(p)] == (0.0 if p.dim() == 1 else 0.1), name
                assert rate[id(p)] == pytest.approx(1e-5 if "backbone" in name else 1e-4), name

    def test_the_config_stays_as_it_was_whatever_is_built_of_it(self):
        """detectron2's parameter groups write into the overrides that they are given."""
        cfg = load_config("small")
        cfg.optimizer.params._target_ = writes_into_its_overrides
        before = OmegaConf.to_container(cfg.optimizer)
        build_optimizer(cfg, torch.nn.Linear(2, 2))
        assert OmegaConf.to_container(cfg.optimizer) == before

    def test_an_optimizer_that_keeps_what_it_is_given_has_no_list_of_the_config(self):
        """As Adam of torch 2.4: the list would be in every checkpoint."""
        cfg = load_config("small")
        cfg.optimizer._target_ = Keeps
        optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
        assert {type(values["betas"]) for values in (optimizer.defaults, *optimizer.param_groups)} == {tuple}
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def writes_into_its_overrides(model, overrides, **others):
    overrides["bias"] = {"weight_decay": 0.0}
    return model.parameters()


class Keeps(torch.optim.Optimizer):
    def __init__(self, params, **options):
        super().__init__(params, options)


class Waiting(TrainerBase):
    """A step of a second, a share of which it waits for data."""

    def __init__(self, share, period):
        super().__init__()
        self.share, self.period, self.kept = share, period, []

    def run_step(self):
        self.kept.append((self.iter, self.share(self.iter)))
        if (self.iter + 1) % self.period == 0:  # as the metrics of a training come
            for iteration, waited in self.kept:
                self.storage.put_scalar("data_time", waited, cur_iter=iteration)
            self.kept.clear()
        self.storage.put_scalar("time", 1.0)


@pytest.mark.parametrize(
    "share, warned, told",
    [
        (lambda it: 0.05, 0, "5%"),
        (lambda it: 0.5, 1, "50%"),
        (lambda it: 1.0 if it < 10 else 0.1, 0, "10%"),  # until the loaders run
        (lambda it: 0.9 if it % 50 == 10 else 0.01, 0, "2%"),  # a checkpoint of another job on the disk
        (lambda it: 7.0, 1, "100%"),
    ],
)
def test_waiting_for_data_is_warned_of_once(share, warned, told, monkeypatch):
    warnings, infos = [], []
    for level, taken in (("warning", warnings), ("info", infos)):
        monkeypatch.setattr(hooks._log, level, lambda text, *args, taken=taken: taken.append(text % args))
    trainer = Waiting(share, 20)
    trainer.register_hooks([DataShare(20)])
    trainer.train(0, 200)
    assert len(warnings) == warned and all("waiting for data" in w and "num_workers" in w for w in warnings)
    assert f"waiting for data: {told} of the time of the steps" in infos


def test_a_handful_of_steps_says_nothing_about_data(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    caplog.set_level(logging.INFO)
    trainer = Waiting(lambda it: 1.0, 1)
    trainer.register_hooks([DataShare(1)])
    trainer.train(0, 29)
    assert "waiting" not in caplog.text
