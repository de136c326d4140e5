"""The training loop, its hooks and writers."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from fvcore.common.param_scheduler import StepWithFixedGammaParamScheduler

from detrex_ext.checkpoint import RunFolder
from detrex_ext.engine import (
    CommonMetricPrinter,
    EvalHook,
    IterationTimer,
    JSONWriter,
    LRScheduler,
    PeriodicWriter,
    TensorboardXWriter,
    TrainerBase,
    default_writers,
)
from detrex_ext.engine.hooks import shown_groups
from detrex_ext.runtime import EventStorage, HookBase, get_event_storage, standalone


class Trainer(TrainerBase):
    """Loss = iteration; fails where told."""

    def __init__(self, fail_at=None, error=ValueError):
        super().__init__()
        self.fail_at, self.error = fail_at, error

    def run_step(self):
        if self.iter == self.fail_at:
            raise self.error("told to")
        get_event_storage().put_scalar("total_loss", float(self.iter))


class Recorder(HookBase):
    def __init__(self, calls, name="r"):
        self.calls, self.name = calls, name

    def __getattribute__(self, attribute):
        if attribute in ("before_train", "after_train", "before_step", "after_step"):
            def record():
                self.calls.append((attribute, self.name, self.trainer.iter, self.trainer.storage.iter))
            return record
        return super().__getattribute__(attribute)


class Counter(HookBase):
    def __init__(self):
        self.count = 0

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_hooks_run_in_order_in_every_phase():
    calls = []
    trainer = Trainer()
    trainer.register_hooks([Recorder(calls, "a"), None, Recorder(calls, "b")])
    trainer.train(3, 5)
    assert calls == [
        (phase, name, *iters)
        for phase, iters in [
            ("before_train", (3, 3)), ("before_step", (3, 3)), ("after_step", (3, 3)),
            ("before_step", (4, 4)), ("after_step", (4, 4)), ("after_train", (5, 5)),
        ]
        for name in "ab"
    ]  # fmt: skip
    assert trainer.iter == trainer.max_iter == 5


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_train_runs_when_a_step_fails_and_nothing_is_evaluated(error):
    evaluations, calls = [], []
    trainer = Trainer(fail_at=4, error=error)
    trainer.register_hooks([EvalHook(0, lambda: evaluations.append(1)), Recorder(calls)])
    with pytest.raises(error):
        trainer.train(0, 5)
    assert calls[-1] == ("after_train", "r", 4, 4) and evaluations == []


def test_state_of_every_hook_is_kept_even_of_one_class():
    trainer, other = Trainer(), Trainer()
    hooks, others = [Counter(), Counter()], [Counter(), Counter()]
    trainer.register_hooks(hooks)
    other.register_hooks(others)
    trainer.train(0, 3)
    hooks[1].count = 8
    state = trainer.state_dict()
    assert state["iteration"] == 3 and state["hooks"] == {"Counter": {"count": 3}, "Counter#2": {"count": 8}}
    other.load_state_dict(state)
    assert [h.count for h in others] == [3, 8] and other.iter == 3


def test_state_of_an_unknown_hook_is_ignored_with_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    Trainer().load_state_dict({"iteration": 2, "hooks": {"Gone": {"x": 1}}})
    assert "Gone" in caplog.text


def test_an_evaluation_registered_after_the_writers_is_written(tmp_path):
    trainer = Trainer()
    results = iter([{"bbox": {"AP": 1, "AP-cat": float("nan")}}, {"bbox": {"AP": 2.0}}])
    writer = PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=2)
    trainer.register_hooks([writer, EvalHook(2, lambda: next(results))])
    trainer.train(0, 3)
    assert lines_of(tmp_path / "metrics.json") == [
        {"iteration": 1, "total_loss": 0.5, "bbox/AP": 1.0, "bbox/AP-cat": None},
        {"iteration": 2, "total_loss": 1.0},
        {"iteration": 3, "bbox/AP": 2.0},
    ]
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


def test_evaluation_must_give_numbers():
    trainer = Trainer()
    trainer.register_hooks([EvalHook(1, lambda: {"a": {"b": "text"}})])
    with pytest.raises(ValueError, match="a/b"):
        trainer.train(0, 2)


def test_a_scheduler_of_torch_is_stepped_each_time_and_restored():
    def run(start, end, state=None):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        trainer = Trainer()
        trainer.optimizer = optimizer
        trainer.run_step = optimizer.step
        trainer.register_hooks([LRScheduler(scheduler=scheduler)])
        if state is not None:
            trainer.load_state_dict(state["trainer"])
            optimizer.load_state_dict(state["optimizer"])
        trainer.train(start, end)
        return scheduler, {"trainer": trainer.state_dict(), "optimizer": optimizer.state_dict()}

    scheduler, state = run(0, 5)
    assert scheduler.last_epoch == 5 and scheduler.get_last_lr() == [pytest.approx(0.1)]
    scheduler, state = run(5, 7, state)
    assert scheduler.last_epoch == 7 and scheduler.get_last_lr() == [pytest.approx(0.01)]
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.01)


def test_lines_come_in_order_of_iterations(tmp_path):
    path = tmp_path / "metrics.json"
    with EventStorage() as storage:
        storage.put_scalar("late", 1.0, cur_iter=7)
        storage.put_scalar("early", float("inf"), cur_iter=3)
        writer = JSONWriter(str(path))
        writer.write()
        writer.write()
        writer.close()
    assert lines_of(path) == [{"early": None, "iteration": 3}, {"iteration": 7, "late": 1.0}]


@pytest.mark.parametrize("written_before_the_stop", [False, True])
def test_a_resumed_run_writes_what_an_uninterrupted_one_does(tmp_path, written_before_the_stop):
    class Keep(HookBase):
        """A checkpoint at iteration 29, before the writers of that iteration."""

        def after_step(self):
            if self.trainer.iter == 29:
                self.trainer.kept = self.trainer.state_dict()

    def run(folder, start, end, state=None):
        folder.mkdir(exist_ok=True)
        trainer = Trainer()
        evaluate = EvalHook(10, lambda: {"AP": float(trainer.iter)})
        writer = JSONWriter(str(folder / "metrics.json"))
        trainer.register_hooks([evaluate, Keep(), PeriodicWriter([writer], period=15)])
        if state is not None:
            trainer.load_state_dict(state)
        trainer.train(start, end)
        return trainer

    run(tmp_path / "whole", 0, 50)
    trainer = run(tmp_path / "cut", 0, 50)
    path = tmp_path / "cut/metrics.json"
    RunFolder(tmp_path / "cut").truncate_metrics(29 if written_before_the_stop else 28)
    run(tmp_path / "cut", 30, 50, json.loads(json.dumps(trainer.kept)))
    assert path.read_text() == (tmp_path / "whole/metrics.json").read_text()


def test_learning_rate_hook_stores_lr_and_outlives_the_last_step():
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]},
         {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 9.0}], lr=1.0,
    )  # fmt: skip
    seen = []

    class See(HookBase):
        def before_step(self):
            optimizer.step()

        def after_step(self):
            seen.append(get_event_storage().latest()["lr"])

    schedule = StepWithFixedGammaParamScheduler(base_value=1.0, num_decays=1, gamma=0.1, num_updates=4)
    trainer = Trainer()
    hook = LRScheduler(optimizer, schedule)
    trainer.register_hooks([hook, See()])
    trainer.train(0, 4)
    assert [value for value, _ in seen] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert set(hook.state_dict()) == {"base_lrs", "last_epoch"}

    resumed = Trainer()
    seen.clear()
    resumed.register_hooks([LRScheduler(optimizer, schedule), See()])
    resumed.load_state_dict({"iteration": 1})
    resumed.train(2, 4)
    assert [value for value, _ in seen] == pytest.approx([0.1, 0.1])
    again = Trainer()
    again.register_hooks([LRScheduler(optimizer, schedule)])
    again.train(4, 4)


def test_console_line_has_the_contract_form_and_leaves_stages_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    caplog.set_level(logging.INFO)
    trainer = Trainer()

    class Stage(HookBase):
        def after_step(self):
            get_event_storage().put_scalar("stage0/loss_class", 1.0)
            get_event_storage().put_scalar("lr", 1e-4, smoothing_hint=False)

    trainer.register_hooks([IterationTimer(), Stage(), PeriodicWriter(default_writers(str(tmp_path), 6), 3)])
    trainer.train(0, 6)
    printed = [r.getMessage() for r in caplog.records if "iter:" in r.getMessage()]
    assert len(printed) == 2
    assert printed[1].startswith(" eta: 0:00:00  iter: 5  total_loss: 2.5  time: ")
    assert "lr: 0.0001" in printed[1] and "stage0" not in caplog.text
    assert "Overall training speed: 4 iterations in" in caplog.text and "Total training time:" in caplog.text
    last = lines_of(tmp_path / "metrics.json")[-1]
    assert last["stage0/loss_class"] == 1.0 and last["eta_seconds"] == 0.0


def test_time_to_go_without_a_timer_is_that_since_the_last_line(monkeypatch):
    clock = iter([10.0, 14.0, 14.0])
    monkeypatch.setattr("detrex_ext.engine.writers.time.perf_counter", lambda: next(clock))
    printer = CommonMetricPrinter(10)
    with EventStorage() as storage:
        printer.write()
        assert "eta_seconds" not in storage.histories()
        storage.iter = 2
        printer.write()
        assert storage.latest()["eta_seconds"] == (2.0 * 7, 2)
        printer.write()  # no iteration since
        assert len(storage.history("eta_seconds").values()) == 1


def test_printer_says_na_without_a_learning_rate(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    caplog.set_level(logging.INFO)
    with EventStorage(4) as storage:
        storage.put_scalar("loss_a", 1.23456789)
        CommonMetricPrinter(10).write()
        storage.iter = 10
        CommonMetricPrinter(10).write()
    assert [r.getMessage().split("  max_mem")[0] for r in caplog.records] == [" iter: 4  loss_a: 1.235   lr: N/A"]


def test_tensorboard_has_no_file_before_something_is_written(tmp_path):
    pytest.importorskip("tensorboard")
    writer = TensorboardXWriter(str(tmp_path))
    writer.close()
    assert list(tmp_path.iterdir()) == []
    with EventStorage():
        writer.write()
    writer.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_tensorboard_gets_scalars_and_images(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventStorage(3) as storage:
        storage.put_scalar("bbox/AP", 40.0, smoothing_hint=False)
        storage.put_image("boxes", torch.zeros(3, 4, 4, dtype=torch.uint8))
        writer = TensorboardXWriter(str(tmp_path))
        writer.write()
        writer.close()
        assert storage._vis_data == []
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("bbox/AP")] == [(3, 40.0)]
    assert events.Tags()["images"] == ["boxes"]


def test_a_name_scope_ends_with_an_error_too():
    with standalone.EventStorage() as storage:
        with pytest.raises(RuntimeError), storage.name_scope("val"):
            raise RuntimeError("evaluation failed")
        storage.put_scalar("loss", 1.0)
        assert set(storage.latest()) == {"loss"}


def test_the_wider_group_names_the_learning_rate():
    def optimizer(*groups):
        made = [{"params": [torch.nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr} for n, lr in groups]
        return torch.optim.SGD(made, lr=1.0)

    for groups in (((1, 0.1), (3, 0.2), (2, 0.3)), ((1, 0.1), (1, 0.2), (1, 0.2))):
        groups = optimizer(*groups).param_groups
        assert shown_groups(groups) == {"lr": groups[1]}
