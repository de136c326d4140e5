"""Hooks that write checkpoints: periodic ones, the final one, the best weights.

A checkpoint of iteration i is written after its step and before its evaluation, so that an evaluation that is killed
costs no training. A run that resumes from it does the rest of iteration i first: evaluation, best checkpoint, metrics.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
from collections.abc import Mapping
from typing import Any

from detrex_ext.checkpoint import Checkpointer, read_checkpoint
from detrex_ext.checkpoint.files import own_iteration, write_whole
from detrex_ext.checkpoint.rewinding import prune
from detrex_ext.checkpoint.weights import evaluated_by
from detrex_ext.errors import UserError
from detrex_ext.runtime import HookBase, comm

from .eval_hook import Period, at_iteration, falls_on, is_due
from .evaluation_record import read_record
from .signals import Interrupted

logger = logging.getLogger(__name__)


class PeriodicCheckpointer(HookBase):
    """Writes ``model_{iteration:07d}`` every ``period`` iterations and ``model_final`` at the end.

    Also stops the training where a signal asked for it, after a checkpoint.

    Args:
        checkpointer: of the run folder; registered on every rank.
        period: iterations, or whether it is time after so many.
        max_to_keep: periodic files kept in the folder, those of an interrupted run before included; 0 or None = all.
    """

    def __init__(self, checkpointer: Checkpointer, period: Period, max_to_keep: int | None = None) -> None:
        self.checkpointer, self.period, self.max_to_keep = checkpointer, period, max_to_keep
        self._written = -1

    def before_train(self) -> None:
        """A run killed between its last periodic and its final checkpoint gets the final one: the same file."""
        folder, last = self.checkpointer.folder, self.trainer.max_iter - 1
        periodic = folder.periodic(last)
        done = own_iteration(folder.final)  # one of a shorter training may be there
        missing = self.trainer.start_iter > last and periodic.is_file() and (done is None or done < last)
        if missing and comm.is_main_process():
            with open(periodic, "rb") as source:
                write_whole(folder.final, lambda file: shutil.copyfileobj(source, file))
            self.checkpointer.tag_last_checkpoint(folder.final.name)

    def after_step(self) -> None:
        """Save what is due and drop old files.

        Raises:
            Interrupted: a signal asked to stop; a checkpoint was written before.
        """
        iteration = self.trainer.iter
        if falls_on(self.period, iteration + 1):
            self._save()
        if iteration + 1 == self.trainer.max_iter:
            self.checkpointer.save(self.checkpointer.folder.final.stem, iteration=iteration)
        if self.trainer.stopping:
            self.stop(self.trainer.stopping)

    def _save(self) -> None:
        folder, self._written = self.checkpointer.folder, self.trainer.iter
        path = folder.periodic(self._written)
        self.checkpointer.save(path.stem, iteration=self._written)
        if comm.is_main_process():
            prune(folder, self.max_to_keep or 0, path)

    def stop(self, number: int) -> None:
        """End the training for a signal, with a checkpoint of what was done; every rank calls it.

        Raises:
            Interrupted: always.
        """
        trainer = self.trainer
        if trainer.start_iter <= trainer.iter < trainer.max_iter and self._written != trainer.iter:
            self._save()
        done = min(trainer.iter + 1, trainer.max_iter)
        logger.warning("%s: stopped after %d iterations; go on with --resume", signal.Signals(number).name, done)
        comm.synchronize()  # the others are ended when one process has
        raise Interrupted(number)


class BestCheckpointer(HookBase):
    """Keeps the best evaluated weights in ``model_best.pth``; registered after the evaluation, on every rank.

    Args:
        checkpointer: of the run folder.
        eval_period: of the evaluation.
        metric: name in the event storage, as ``bbox/AP``.
        mode: "max" or "min".
        data: what is evaluated on, in words that are the same for the same data.
    """

    def __init__(
        self, checkpointer: Checkpointer, eval_period: Period, metric: str, mode: str = "max", data: str = ""
    ) -> None:
        if mode not in ("max", "min"):
            raise UserError(f"train.best_checkpoint.mode={mode}: expected max or min")
        self.checkpointer, self.period, self.metric = checkpointer, eval_period, metric
        self.sign = 1.0 if mode == "max" else -1.0
        self.of = [metric, mode, evaluated_by(checkpointer.extra), data]
        self.best: float | None = None
        self.best_iter: int | None = None

    def before_train(self) -> None:
        """Save the weights a resumed run starts from, if they were evaluated and are the best."""
        start = self.trainer.start_iter
        if not self.checkpointer.folder.best.is_file():  # set aside with what came after the start, or gone
            self.forget()
        self._take_from_file(start)
        if is_due(self.period, start, self.trainer.max_iter):
            with at_iteration(self.trainer, start - 1):
                self._check(start - 1)

    def after_step(self) -> None:
        """Save the weights if they were evaluated and are the best."""
        if is_due(self.period, self.trainer.iter + 1, self.trainer.max_iter):
            self._check(self.trainer.iter)

    def after_train(self) -> None:
        """As `after_step`, for the evaluation at the end of a training that ended well."""
        if self.trainer.iter >= self.trainer.max_iter:
            with at_iteration(self.trainer, self.trainer.max_iter - 1):
                self._check(self.trainer.max_iter)

    def _take_from_file(self, start: int) -> None:
        """What ``model_best.pth`` is the best of; the last evaluation of a shorter training stands nowhere else."""
        found = comm.all_gather(self._in_file(start) if start and comm.is_main_process() else None)[0]
        if found is not None and (self.best is None or self.sign * found[0] > self.sign * self.best):
            self.best, self.best_iter = found
            logger.info("best %s so far: %.4f after %d iterations", self.metric, self.best, self.best_iter + 1)

    def _in_file(self, start: int) -> tuple[float, int] | None:
        """(value, iteration), where they are of iterations before ``start`` and comparable."""
        path = self.checkpointer.folder.best
        if not path.is_file():
            return None
        try:
            data = read_checkpoint(path)
        except UserError as error:
            logger.warning("the best so far is not known: %s", str(error).splitlines()[0])
            return None
        state: Any = data
        for key in ("trainer", "hooks", type(self).__name__):
            state = state.get(key) if isinstance(state, Mapping) else None
        value, iteration = state.get("best") if isinstance(state, Mapping) else None, data.get("iteration")
        if not isinstance(value, float) or not math.isfinite(value) or not isinstance(iteration, int):
            return None
        comparable = self._compares(state) and evaluated_by(data) == evaluated_by(self.checkpointer.extra)
        return (value, iteration) if iteration < start and comparable else None

    def _compares(self, state: Mapping[str, Any]) -> bool:
        """Whether a best so far is of the same metric, weights and data, or of before that was kept."""
        return list(state.get("of", self.of)) == self.of

    def _check(self, evaluated: int) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        better = iteration == evaluated and math.isfinite(value)
        better = better and (self.best is None or self.sign * value > self.sign * self.best)
        # metrics are on rank 0, saving is for all
        better, value = comm.all_gather((better, value))[0]
        if not better:
            return
        self.best, self.best_iter = value, self.trainer.iter
        logger.info("best %s so far: %.4f after %d iterations", self.metric, value, self.best_iter + 1)
        folder = self.checkpointer.folder
        record = read_record(folder.evaluation) or {}
        metrics = {"evaluation": record} if record.get("iteration") == evaluated else {}
        self.checkpointer.save(folder.best.stem, tag=False, iteration=self.trainer.iter, **metrics)

    def forget(self) -> None:
        """What was best before is not comparable with what comes."""
        self.best = self.best_iter = None

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, the iteration (from 0) it is of, None before the first; and what it is the best of."""
        return {"best": self.best, "best_iter": self.best_iter, "of": self.of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the best of an earlier run, unless it is one of another metric or of other weights or data."""
        best, best_iter = state["best"], state["best_iter"]
        if self._compares(state):
            self.best = None if best is None else float(best)
            self.best_iter = None if best_iter is None else int(best_iter)
        elif best is not None:
            logger.warning("resume: another metric, or other weights or data, were evaluated: the best is forgotten")
