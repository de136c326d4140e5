"""Hooks of every training, with detectron2's names: time, learning rate, writers."""

from __future__ import annotations

import datetime
import itertools
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from detrex_ext.runtime import HookBase, LRMultiplier

from .writing import PeriodicWriter as PeriodicWriter

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
        """Start the clock of the whole training."""
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        """Log iterations, seconds per iteration and the time spent on hooks."""
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
        """Start the clock of the iteration."""
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        """Store `time` in seconds; during the warm-up set the total clock back instead."""
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()


class DataShare(HookBase):
    """Warns once where a training waits for data too long, and says at its end how long it did. For rank 0.

    Args:
        period: iterations between two looks, those at which the metrics are there.
    """

    most = 0.2
    least = 20
    """Iterations that a share is of."""

    def __init__(self, period: int) -> None:
        self._period, self._told = period, False
        self._seconds = self._waited = 0.0
        self._steps, self._seen = 0, -1

    def before_train(self) -> None:
        """What was before is not counted."""
        self._seen = self.trainer.start_iter + self.least // 2  # until loaders and caches are full

    def after_step(self) -> None:
        """Look at what is new."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._look()

    def after_train(self) -> None:
        """Say it."""
        if self._steps >= self.least:
            _log.info("waiting for data: %.0f%% of the time of the steps", 100 * self._share)

    @property
    def _share(self) -> float:
        return min(self._waited / max(self._seconds, 1e-9), 1.0)

    def _look(self) -> None:
        found = self.trainer.storage.histories()
        if "time" not in found or "data_time" not in found:
            return
        seconds, waited = (_since(found[name].values(), self._seen) for name in ("time", "data_time"))
        both = seconds.keys() & waited.keys()
        self._seconds += sum(seconds[it] for it in both)
        self._waited += sum(waited[it] for it in both)
        self._steps += len(both)
        self._seen = max(both, default=self._seen)
        if self._steps >= self.least and self._share > self.most and not self._told:
            self._told = True
            _log.warning(
                "%.0f%% of the time is spent waiting for data (more than %.0f%%): more loader processes "
                "(dataloader.train.num_workers), decoded images kept in memory (dataloader.train.cache=true), "
                "smaller files, or a faster disk", 100 * self._share, 100 * self.most,
            )  # fmt: skip


def _since(values: Sequence[tuple[float, float]], iteration: int) -> dict[int, float]:
    """Those of a history after an iteration, by their iteration."""
    return {int(it): value for value, it in itertools.takewhile(lambda pair: pair[1] > iteration, reversed(values))}


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class LRScheduler(HookBase):
    """Steps a schedule once per iteration and stores `lr`, and of a second optimizer `lr_adamw`.

    The position follows from the trainer's iteration; nothing is stepped after the last one, where several of fvcore's
    schedules are not defined.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: ParamScheduler | torch.optim.lr_scheduler.LRScheduler | None = None,
    ) -> None:
        """What is None comes from the trainer when the training starts.

        Args:
            optimizer: the trainer's by default.
            scheduler: of the factor on the learning rates, the trainer's by default; or one of torch's, which is
                stepped after the last iteration too and restored from a checkpoint.
        """
        self._optimizer, self._schedule = optimizer, scheduler
        self._scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    def before_train(self) -> None:
        """Set the rates of the first iteration; of a resumed training, those of its place in the schedule."""
        self._optimizer = self._optimizer or self.trainer.optimizer
        if self.trainer.iter > 0:
            for group in self._optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        schedule = self._schedule or self.trainer.scheduler
        self._scheduler = schedule
        if not _is_torchs(schedule):
            last = self.trainer.iter - 1
            self._scheduler = LRMultiplier(self._optimizer, schedule, self.trainer.max_iter, last_iter=last)
        self._shown = shown_groups(self._optimizer.param_groups)

    def after_step(self) -> None:
        """Store the rate this iteration had, then set that of the next."""
        for name, group in self._shown.items():
            self.trainer.storage.put_scalar(name, group["lr"], smoothing_hint=False)
        if self.trainer.iter + 1 < self.trainer.max_iter or self._scheduler is self._schedule:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Position and base rates, as detectron2 keeps them; a resumed training takes both from its config."""
        return {} if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing but for a scheduler of torch: see `state_dict`."""
        if _is_torchs(self._schedule):
            self._schedule.load_state_dict(state_dict)


def _is_torchs(schedule: Any) -> bool:
    return isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)


def shown_groups(groups: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The groups whose rates are logged, by the name these get: ``lr``, and of a second optimizer ``lr_adamw``.

    It is the group with most parameters; of single-parameter groups, one with the commonest rate.
    """
    shown: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(group.get("optimizer") for group in groups):
        own = [group for group in groups if group.get("optimizer") == kind]
        sizes = [len(group["params"]) for group in own]
        if max(sizes) == 1:
            rates = Counter(group["lr"] for group in own)
            sizes = [rates[group["lr"]] for group in own]
        shown[f"lr_{kind}" if shown else "lr"] = own[sizes.index(max(sizes))]
    return shown
