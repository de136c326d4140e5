"""Hooks with detectron2's names; the same with and without detectron2."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from detrex_ext.runtime import HookBase, LRMultiplier, comm
from detrex_ext.runtime.writers import EventWriter, JSONWriter

_log = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Stores `time` (seconds per iteration) and says at the end how fast the training was."""

    def __init__(self, warmup_iter: int = 3) -> None:
        """Args: warmup_iter: iterations at the start that are not counted."""
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._start_time = time.perf_counter()
        self._total_timer = Timer()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        total = time.perf_counter() - self._start_time
        in_steps = self._total_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and in_steps > 0:
            per_iter = in_steps / count
            _log.info(
                f"Overall training speed: {count} iterations in {_clock(in_steps)} ({per_iter:.4f} s / it)"
            )
        _log.info(f"Total training time: {_clock(total)} ({_clock(total - in_steps)} on hooks)")

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class LRScheduler(HookBase):
    """Steps a schedule once per iteration and stores `lr`.

    With an fvcore ParamScheduler the position follows from the trainer's iteration; nothing is stepped after the
    last iteration, where several of fvcore's schedules are not defined.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None) -> None:
        """
        Args:
            optimizer: the trainer's by default.
            scheduler: a torch learning-rate scheduler or an fvcore ParamScheduler; the trainer's by default.
        """
        self._optimizer, self._scheduler = optimizer, scheduler

    @property
    def scheduler(self) -> Any:
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            if self.trainer.iter > 0:
                for group in self._optimizer.param_groups:
                    group.setdefault("initial_lr", group["lr"])
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._group = _representative_group(self._optimizer)

    def after_step(self) -> None:
        lr = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        scheduler = self._scheduler
        return scheduler.state_dict() if isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self._scheduler, torch.optim.lr_scheduler.LRScheduler):
            _log.info("Loading scheduler from state_dict ...")
            self._scheduler.load_state_dict(state_dict)


def _representative_group(optimizer: torch.optim.Optimizer) -> int:
    """Index of the group with most parameters; of single-parameter groups, one with the commonest rate."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if max(sizes) > 1:
        return sizes.index(max(sizes))
    rates = [group["lr"] for group in optimizer.param_groups]
    return rates.index(Counter(rates).most_common(1)[0][0])


class PeriodicWriter(HookBase):
    """Calls writers every `period` iterations, after the last one and at the end.

    It runs after all other hooks of a phase, whatever the order of registration, so that what they store is written.
    """

    runs_last = True

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        self._writers, self._period = list(writers), period

    def before_train(self) -> None:
        # a run that stopped between its checkpoint and this hook: the line of that iteration is still to be written
        if self.trainer.start_iter > 0 and self.trainer.start_iter % self._period == 0:
            for writer in self._writers:
                if isinstance(writer, JSONWriter):
                    writer.write()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            # an evaluation at the end may have stored more
            writer.write()
            writer.close()


class EvalHook(HookBase):
    """Runs a function every `period` iterations and after a training that ended well; stores its figures.

    It must be registered on all ranks.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True) -> None:
        """
        Args:
            eval_period: in iterations; 0 for the end only.
            eval_function: no arguments; returns nested dicts of numbers, or nothing.
        """
        self._period, self._func, self._eval_after_train = eval_period, eval_function, eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            if not isinstance(results, Mapping):
                raise AssertionError(f"the evaluation must return a dict, found {type(results).__name__}")
            flat = _flatten(results)
            for name, value in flat.items():
                try:
                    flat[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"the evaluation must return numbers, found {name} = {value!r}") from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        # max_iter is reached only by a training that ended well
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        # the function may hold a reference to the trainer
        del self._func


def _flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
