"""Evaluation during a training, and of what a resumed one has still to evaluate."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from detrex_ext.checkpoint.files import write_json
from detrex_ext.runtime import EvalHook as _RuntimeEvalHook
from detrex_ext.runtime import comm

from . import rng

logger = logging.getLogger(__name__)


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
            write_json({"iteration": iteration, "key": self._key, "results": _nulls(results)}, self._path)
        return results

    def _read(self, iteration: int) -> dict[str, Any] | None:
        try:
            with open(self._path, encoding="utf-8") as file:
                saved = json.load(file)
        except (OSError, ValueError):
            return None
        fits = saved.get("iteration") == iteration and saved.get("key") == self._key
        return _nans(saved["results"]) if fits else None


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
