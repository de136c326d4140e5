"""Which writers a training has, and when they write."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detrex_ext.checkpoint import RunFolder
from detrex_ext.config import LazyConfig
from detrex_ext.runtime import HookBase

from .boards import TensorboardXWriter, WandbWriter
from .events import EventWriter, is_early
from .writers import CommonMetricPrinter, CSVWriter, JSONWriter

_log = logging.getLogger(__name__)


class PeriodicWriter(HookBase):
    """Calls writers every `period` iterations, after the last one and after a training that ended well.

    A training that was stopped writes no line of its own for where it stopped: one that was not would have none.
    It runs after all other hooks of a phase, whatever the order of registration, so that what they store is written.
    A writer that fails is told once, and the training goes on.
    """

    runs_last = True

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        self._writers, self._period = list(writers), period
        self._failed: list[EventWriter] = []

    def before_train(self) -> None:
        """Write the line of metrics.json that a run stopped after its checkpoint still owes, and tell the others."""
        # a run that stopped between its checkpoint and this hook: the line of that iteration is still to be written
        owed = self.trainer.start_iter > 0 and self.trainer.start_iter % self._period == 0
        lines = []
        for writer in self._writers:
            if isinstance(writer, JSONWriter):
                if owed:
                    self._try(writer, writer.write)
                lines = writer.lines()
        for writer in self._writers:
            if hasattr(writer, "begin"):  # one of detectron2's has none
                self._try(writer, partial(writer.begin, lines))

    def after_step(self) -> None:
        """Write every `period` iterations and after the last; some writers after the first few too."""
        done = self.trainer.iter + 1
        due = done % self._period == 0 or done == self.trainer.max_iter
        for writer in self._writers:
            if getattr(writer, "max_iter", None) is not None:  # it may be another than at the start
                writer.max_iter = self.trainer.max_iter
            if due or (getattr(writer, "early", False) and is_early(done)):
                self._try(writer, writer.write)

    def after_train(self) -> None:
        """Write once more if the training ended well, and close the writers."""
        for writer in self._writers:
            if self.trainer.iter >= self.trainer.max_iter:  # an evaluation at the end may have stored more
                self._try(writer, writer.write)
            self._try(writer, writer.close, always=True)

    def _try(self, writer: EventWriter, call: Callable[[], None], always: bool = False) -> None:
        retries = getattr(writer, "retries", False)
        if writer in self._failed and not (retries or always):
            return
        try:
            call()
        except Exception as error:
            if writer in self._failed:
                return
            self._failed.append(writer)
            reason = (str(error).splitlines() or [""])[0]
            rest = "it is tried again" if retries else "nothing more is written there until the next start"
            text = "%s failed in iteration %d: %s: %.200s; training goes on, %s"
            _log.warning(text, type(writer).__name__, self.trainer.iter, type(error).__name__, reason, rest)


def config_writers(cfg: DictConfig) -> list[EventWriter]:
    """The writers that ``train.writers`` chooses; ``log.txt`` and ``metrics.json`` are always written.

    Args:
        cfg: the whole config.
    """
    chosen, folder, shown = cfg.train.writers, RunFolder(cfg.train.output_dir), LazyConfig.dumps(cfg)
    writers: list[EventWriter] = [
        CommonMetricPrinter(cfg.train.max_iter, only="file"),
        JSONWriter(str(folder.metrics)),
    ]
    if chosen.csv:
        writers.append(CSVWriter(str(folder.csv)))
    if chosen.wandb:  # before TensorBoard's, which takes the images out of the storage
        values = OmegaConf.to_container(cfg, resolve=True)
        writers.append(WandbWriter(folder.wandb, str(folder.path), config=_plain(values), **_names(cfg.train)))
    if chosen.tensorboard:
        writers.append(TensorboardXWriter(str(folder.path), config=shown))
    return writers


def _plain(value: Any) -> Any:
    """Nested values with text for what JSON does not have."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _names(train: DictConfig) -> dict[str, Any]:
    """What W&B calls a run, where its own variables do not say: the names of the folder, or detrex's option."""
    given = OmegaConf.select(train, "wandb.params", default=None) or {}
    names = {"project": given.get("project", "detrex_ext"), "name": given.get("name", Path(train.output_dir).name)}
    return {k: v for k, v in names.items() if v and not os.environ.get(f"WANDB_{k.upper()}")}
