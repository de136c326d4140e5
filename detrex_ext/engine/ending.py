"""How a training ends: in time, early where it no longer gains, with its best weights in place of its last."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig

from detrex_ext.checkpoint import Checkpointer, read_checkpoint
from detrex_ext.checkpoint.files import write_checkpoint
from detrex_ext.checkpoint.run_folder import Saved
from detrex_ext.errors import UserError
from detrex_ext.runtime import HookBase, comm

from .best_metric import content_of
from .checkpoint_hooks import BestCheckpointer
from .eval_hook import Period, at_iteration, is_due
from .evaluation_record import as_record, write_record
from .schedule import build_schedule
from .time_budget import TimeBudget

logger = logging.getLogger(__name__)
KEY = "ended"
"""Of a checkpoint whose training ended otherwise than at its iteration by the config: ``after`` how many, ``asked``."""


def asked(train: Any) -> dict[str, Any]:
    """What a config says of a training's length; under other values one that ended goes on."""
    return {"max_iter": train.max_iter, "minutes": train.minutes, "patience": train.early_stop.patience}


def ended_after(saved: Saved | None, now: Mapping[str, Any]) -> int | None:
    """Iterations after which the training of a checkpoint ended, unless another length is asked for now."""
    note = saved.data.get(KEY) if saved else None
    if not isinstance(note, Mapping) or note.get("asked") != now:
        return None
    after = note.get("after")
    return after if type(after) is int and after > 0 else None


class EarlyStop(HookBase):
    """Ends a training whose evaluations stand still; registered after the best checkpoint's hook, on every rank.

    The final checkpoint is written here, and the trainer's ``max_iter`` becomes what is done.

    Args:
        best: whose metric, mode, period and checkpointer are used.
        patience: evaluations in a row without a gain.
        min_delta: a gain is more than this over the best that was one.
        asked: noted in the final checkpoint.
        begin: progress of the training from which on evaluations without a gain are counted.
    """

    def __init__(
        self, best: BestCheckpointer, patience: int, min_delta: float, asked: Mapping[str, Any], begin: float = 0.0
    ) -> None:
        self.best, self.patience, self.min_delta, self.asked = best, patience, min_delta, dict(asked)
        self.begin = begin
        self.reference: float | None = None
        self.stale = 0

    def before_train(self) -> None:
        """Count the evaluation that a resumed run began with."""
        start = self.trainer.start_iter
        if is_due(self.best.period, start, self.trainer.max_iter):
            with at_iteration(self.trainer, start - 1):
                self._count()

    def after_step(self) -> None:
        """Count the evaluation, if there was one."""
        if is_due(self.best.period, self.trainer.iter + 1, self.trainer.max_iter):
            self._count()

    def _count(self) -> None:
        trainer = self.trainer
        value, iteration = trainer.storage.latest().get(self.best.metric, (math.nan, -1))
        known = iteration == trainer.iter and math.isfinite(value)
        known, value = comm.all_gather((known, self.best.sign * value))[0]  # metrics are on rank 0
        if known and (self.reference is None or value > self.reference + self.min_delta):
            self.reference, self.stale = value, 0
            return
        self.stale += trainer.progress_at(trainer.iter) >= self.begin
        if self.stale < self.patience:
            return
        done, checkpointer = trainer.iter + 1, self.best.checkpointer
        logger.info(
            "train.early_stop: %s gained nothing in %d evaluations: the training ends after %d of %d iterations",
            *(self.best.metric, self.stale, done, trainer.max_iter),
        )
        trainer.max_iter = done
        checkpointer.extra[KEY] = {"after": done, "asked": self.asked}
        checkpointer.save(checkpointer.folder.final.stem, iteration=trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        """What counts as a gain, and how often there was none."""
        return {"reference": self.reference, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        reference = state["reference"]
        self.reference, self.stale = None if reference is None else float(reference), int(state["stale"])


class RestoreBest(HookBase):
    """At the end ``model_final.pth`` becomes ``model_best.pth``: its weights, iteration, threshold and optimizer.

    ``evaluation.json`` becomes that of these weights.
    Registered after the best checkpoint's hook. The last weights stay in the last periodic checkpoint, if there is one.

    Args:
        best: says which were the best.
        asked: noted in the file.
    """

    def __init__(self, best: BestCheckpointer, asked: Mapping[str, Any]) -> None:
        self.best, self.asked = best, dict(asked)

    def after_train(self) -> None:
        """Write it, after a training that ended well."""
        last, best = self.trainer.max_iter, self.best
        if self.trainer.iter < last or best.best_iter is None or not comm.is_main_process():
            return
        folder, done = best.checkpointer.folder, best.best_iter + 1
        if done >= last or not folder.best.is_file():
            logger.info("%s: the last weights are the best by %s", folder.final.name, best.metric)
            return
        try:
            data = read_checkpoint(folder.best)
        except UserError:  # damaged since it was written
            data = {}
        if data.get("iteration") != best.best_iter:
            return logger.warning("%s does not hold the best: the last weights stay", folder.best)
        write_checkpoint({**data, KEY: {"after": last, "asked": self.asked}}, folder.final)
        folder.tag(folder.final)
        if (record := as_record(data.get("evaluation"))) is not None:
            write_record(folder.evaluation, last, record["key"], record["results"], best.best_iter)
        logger.info(
            "%s holds the best weights: %s %.4f after %d of %d iterations",
            *(folder.final.name, best.metric, best.best, done, last),
        )


def build_best(train: Any, checkpointer: Checkpointer, evaluator: Any, period: Period) -> BestCheckpointer:
    """The hook of ``train.best_checkpoint``."""
    data, best = content_of(evaluator), train.best_checkpoint
    return BestCheckpointer(checkpointer, period, best.metric, best.mode, data)


def ending_hooks(cfg: DictConfig, best: BestCheckpointer | None, asked: Mapping[str, Any]) -> list[HookBase]:
    """Those that the config asks for. While images are mixed no evaluation counts against the training.

    Args:
        cfg: the whole config.
        best: hook of the best checkpoint.
        asked: see :func:`asked`.

    Raises:
        UserError: they need the best checkpoint, and there is none.
    """
    train, dataset = cfg.train, cfg.get("dataset") or {}
    stop, restore = train.early_stop, train.best_checkpoint.restore
    if best is None and (stop.patience or restore):
        if not train.best_checkpoint.enabled:
            key = "early_stop.patience" if stop.patience else "best_checkpoint.restore"
            raise UserError(f"train.{key} goes by the best checkpoint: set train.best_checkpoint.enabled=true")
        logger.warning("nothing is evaluated: no early stop, and the last weights are the final ones")
    if best is None:
        return []
    mixed = any(dataset.get(share) for share in ("mosaic", "mixup", "copy_blend"))
    begin = dataset.get("plain_from", 0.0) if mixed else 0.0
    early = [EarlyStop(best, stop.patience, stop.min_delta, asked, begin)] if stop.patience else []
    return early + ([RestoreBest(best, asked)] if restore else [])


def build_budget(cfg: DictConfig, began: float, evaluation: tuple[Any, Any] | None) -> TimeBudget:
    """The budget of ``train.minutes``.

    Args:
        cfg: the whole config; its ``train.max_iter`` becomes that of the first plan, of which the warm-up is at most a
            fifth.
        began: when the training began, of ``time.monotonic``.
        evaluation: loader and evaluator, if there is validation data.
    """
    warmup = cfg.lr_multiplier.get("warmup_iters")

    def schedule(max_iter: int) -> ParamScheduler:
        cfg.train.max_iter = max_iter
        if warmup:
            cfg.lr_multiplier.warmup_iters = min(warmup, max_iter // 5)
        return build_schedule(cfg)

    batches = 0.0
    if evaluation is not None:
        images = len(evaluation[0]) * getattr(evaluation[0], "batch_size", 1)
        batches = images * comm.get_world_size() / cfg.dataloader.train.total_batch_size
    return TimeBudget(60 * cfg.train.minutes, began, schedule, cfg.train.max_iter, batches)
