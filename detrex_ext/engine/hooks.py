"""Hooks around a training: checkpoints, evaluation, signals.

A checkpoint of iteration i is written after its step and before its evaluation, so that an evaluation that is killed
costs no training. A run that resumes from it does the rest of iteration i first: evaluation, best checkpoint, metrics.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from detrex_ext.checkpoint import Checkpointer
from detrex_ext.checkpoint.files import write_whole
from detrex_ext.errors import UserError
from detrex_ext.runtime import EvalHook as _RuntimeEvalHook
from detrex_ext.runtime import HookBase, comm
from detrex_ext.runtime import PeriodicWriter as _RuntimePeriodicWriter

from . import rng

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """A signal ended the training after a checkpoint; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


class SignalHook(HookBase):
    """Notes SIGTERM, SIGINT and SIGUSR1 for the end of the step; a second one acts at once."""

    SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, n))

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._note) for s in self.SIGNALS}

    def after_train(self) -> None:
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        logger.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)
        self.trainer.stop_signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class PeriodicCheckpointer(HookBase):
    """Writes ``model_{iteration:07d}`` every ``period`` iterations and ``model_final`` at the end.

    Also stops the training where a signal asked for it, after a checkpoint.

    Args:
        checkpointer: of the run folder; registered on every rank.
        period: iterations.
        max_to_keep: periodic files kept in the folder, those of an interrupted run before included; None = all.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, max_to_keep: int | None = None) -> None:
        self.checkpointer, self.period, self.max_to_keep = checkpointer, period, max_to_keep

    def after_step(self) -> None:
        iteration, stopping = self.trainer.iter, self.trainer.stopping
        if (iteration + 1) % self.period == 0 or stopping:
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            self._prune()
        if iteration + 1 == self.trainer.max_iter:
            self.checkpointer.save("model_final", iteration=iteration)
        if stopping:
            name = signal.Signals(stopping).name
            logger.warning("%s: stopped after iteration %d; go on with --resume", name, iteration)
            raise Interrupted(stopping)

    def _prune(self) -> None:
        if not self.max_to_keep or not comm.is_main_process():
            return
        for path in self.checkpointer.periodic_files()[: -self.max_to_keep]:
            os.unlink(path)


class PeriodicWriter(_RuntimePeriodicWriter):
    """Calls writers every ``period`` iterations and after a training that ended well.

    One that was stopped writes no line of its own for where it stopped: a run that was not would have none.
    """

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()
        else:
            for writer in self._writers:
                writer.close()


class EvalHook(_RuntimeEvalHook):
    """Evaluates every ``eval_period`` iterations and at the end, without moving the random generators.

    The last figures are kept in ``evaluation.json``, from which a resumed run takes those of the iteration it
    resumes at instead of computing them again.

    Args:
        eval_period: iterations; 0 = only at the end.
        eval_function: () -> nested results; called on every rank.
        folder: where ``evaluation.json`` goes; "" = nowhere.
        key: what the figures depend on beside the weights; figures under another key are not taken.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], folder: str = "", key: str = "") -> None:
        super().__init__(eval_period, lambda: self._results(eval_function))
        self._path = os.path.join(folder, "evaluation.json") if folder else ""
        self._key = key

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if is_due(self._period, start, self.trainer.max_iter):
            with at_iteration(self.trainer, start - 1):
                self._do_eval()

    def _results(self, evaluate: Callable[[], Any]) -> dict[str, Any]:
        iteration = self.trainer.storage.iter
        start = self.trainer.start_iter
        redone = start == iteration + 1 or start == self.trainer.max_iter
        saved = comm.all_gather(self._read(iteration) if redone and comm.is_main_process() else None)[0]
        if saved is not None:
            logger.info("evaluation of iteration %d: figures taken from %s", iteration, self._path)
            return saved if comm.is_main_process() else {}
        with rng.preserved():
            results = evaluate() or {}
        if self._path and results and comm.is_main_process():
            text = {"iteration": iteration, "key": self._key, "results": _nulls(results)}
            write_whole(self._path, lambda file: file.write(json.dumps(text, indent=1).encode()))
        return results

    def _read(self, iteration: int) -> dict[str, Any] | None:
        try:
            with open(self._path, encoding="utf-8") as file:
                saved = json.load(file)
        except (OSError, ValueError):
            return None
        fits = saved.get("iteration") == iteration and saved.get("key") == self._key
        return _nans(saved["results"]) if fits else None


class BestCheckpointer(HookBase):
    """Keeps the best evaluated weights in ``model_best.pth``; registered after the evaluation, on every rank.

    Args:
        checkpointer: of the run folder.
        eval_period: of the evaluation.
        metric: name in the event storage, as ``bbox/AP``.
        mode: "max" or "min".
    """

    def __init__(self, checkpointer: Checkpointer, eval_period: int, metric: str, mode: str = "max") -> None:
        if mode not in ("max", "min"):
            raise UserError(f"train.best_checkpoint.mode={mode}: expected max or min")
        self.checkpointer, self.period, self.metric = checkpointer, eval_period, metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.best: float | None = None
        self.best_iter: int | None = None

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if is_due(self.period, start, self.trainer.max_iter):
            with at_iteration(self.trainer, start - 1):
                self._check(start - 1)

    def after_step(self) -> None:
        if is_due(self.period, self.trainer.iter + 1, self.trainer.max_iter):
            self._check(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            with at_iteration(self.trainer, self.trainer.max_iter - 1):
                self._check(self.trainer.max_iter)

    def _check(self, evaluated: int) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        better = iteration == evaluated and math.isfinite(value)
        better = better and (self.best is None or self.sign * value > self.sign * self.best)
        # figures are on rank 0, saving is for all
        better, value = comm.all_gather((better, value))[0]
        if not better:
            return
        self.best, self.best_iter = value, evaluated
        logger.info("best %s so far: %.4f at iteration %d", self.metric, value, evaluated)
        self.checkpointer.save("model_best", tag=False, iteration=self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_iter": self.best_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iter = state["best"], state["best_iter"]


def is_due(period: int, done: int, max_iter: int) -> bool:
    """Whether an evaluation belongs to the state after ``done`` iterations; the one at the end is not periodic."""
    return period > 0 and done > 0 and done % period == 0 and done != max_iter


@contextlib.contextmanager
def at_iteration(trainer: Any, iteration: int) -> Iterator[None]:
    """The trainer and its storage stand at an iteration inside."""
    before = trainer.iter, trainer.storage.iter
    trainer.iter = trainer.storage.iter = iteration
    try:
        yield
    finally:
        trainer.iter, trainer.storage.iter = before


def _nulls(value: Any) -> Any:
    """Nested figures with null for what JSON cannot hold."""
    if isinstance(value, dict):
        return {k: _nulls(v) for k, v in value.items()}
    return float(value) if math.isfinite(value) else None


def _nans(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nans(v) for k, v in value.items()}
    return math.nan if value is None else value
