"""Evaluation during a training, and of what a resumed one has still to evaluate."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from detrex_ext.checkpoint import RunFolder
from detrex_ext.runtime import HookBase, comm

from . import rng
from .evaluation_record import flat, read_record, write_record

logger = logging.getLogger(__name__)


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations and after a training that ended well; stores the metrics.

    Random generators stay as they are. The last metrics are kept in a file, from which a resumed run takes those of the
    iteration it resumes at instead of computing them again. Registered on every rank.
    """

    def __init__(
        self,
        eval_period: Period,
        eval_function: Callable[[], Any],
        eval_after_train: bool = True,
        *,
        folder: str | os.PathLike = "",
        key: str = "",
        told: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Periods are counted from iteration 0, in a resumed run too.

        Args:
            eval_period: iterations, 0 = only at the end; or whether it is time after so many.
            eval_function: () -> nested dicts of numbers, or nothing; called on every rank.
            eval_after_train: evaluate at the end too.
            folder: the run's, where they are kept; "" = nowhere.
            key: what the metrics depend on beside the weights; metrics under another key are not taken.
            told: called on every rank with what was evaluated, or taken from the file; {} where it is not known.
        """
        self._period, self._evaluate, self._eval_after_train = eval_period, eval_function, eval_after_train
        self._path = RunFolder(folder).evaluation if folder else None
        self._key, self._told = key, told or (lambda results: None)
        self._last: tuple[int, Mapping[str, Any]] = -1, {}  # iterations done, metrics

    def before_train(self) -> None:
        """Evaluate the state a resumed run starts from, if that was due."""
        start = self.trainer.start_iter
        if is_due(self._period, start, self.trainer.max_iter):
            with at_iteration(self.trainer, start - 1):
                self._do_eval()

    def after_step(self) -> None:
        """Evaluate where the period says so, but for the last iteration."""
        if is_due(self._period, self.trainer.iter + 1, self.trainer.max_iter):
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate if the training ended well, and let go of the function."""
        # max_iter is reached only by a training that ended well
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._do_eval()
        del self._evaluate  # it may hold a reference to the trainer

    def _do_eval(self) -> None:
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        results = self._results(done)
        self._last = done, results
        self._told(results)
        metrics = {k: v for k, v in flat(results).items() if "_f1/threshold-" not in k}  # those are in the file
        self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        comm.synchronize()

    def _results(self, done: int) -> Mapping[str, Any]:
        """Of now, by task; {} on other ranks where they are known."""
        iteration = self.trainer.storage.iter
        start = self.trainer.start_iter
        redone = start == iteration + 1 or start == self.trainer.max_iter
        saved = comm.all_gather(self._read(iteration) if redone and comm.is_main_process() else None)[0]
        if saved is not None:
            logger.info("evaluation of iteration %d: metrics taken from %s", iteration, self._path)
            return saved if comm.is_main_process() else {}
        if self._last[0] == done:  # a training that was ended by this evaluation
            results = self._last[1]
        else:
            with rng.preserved():
                results = self._evaluate() or {}
        if not isinstance(results, Mapping):
            raise AssertionError(f"the evaluation must return a dict, found {type(results).__name__}")
        flat(results)  # refuses what is none
        if self._path and results and comm.is_main_process():
            write_record(self._path, iteration, self._key, results)
        return results

    def _read(self, iteration: int) -> dict[str, Any] | None:
        """The metrics in the file, where they are of this iteration's weights and under this key."""
        record = read_record(self._path) if self._path else None
        if record is None or record["key"] != self._key:
            return None
        return record["results"] if iteration in (record["iteration"], record.get("best_iteration")) else None


Period = int | Callable[[int], bool]
"""Iterations, 0 = never; or a function of the iterations done that says whether it is time."""


def falls_on(period: Period, done: int) -> bool:
    """Whether something is done after so many iterations."""
    return period(done) if callable(period) else period > 0 and done > 0 and done % period == 0


def is_due(period: Period, done: int, max_iter: int) -> bool:
    """Whether an evaluation belongs to the state after ``done`` iterations; the one at the end is not periodic."""
    return done < max_iter and falls_on(period, done)


@contextlib.contextmanager
def at_iteration(trainer: Any, iteration: int) -> Iterator[None]:
    """The trainer and its storage stand at an iteration inside."""
    before = trainer.iter, trainer.storage.iter
    trainer.iter = trainer.storage.iter = iteration
    try:
        yield
    finally:
        trainer.iter, trainer.storage.iter = before
