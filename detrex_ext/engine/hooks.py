"""Hooks of every training, with detectron2's names: time, learning rate, writers."""

from __future__ import annotations

import datetime
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
