"""What a person sees of a training: one short line per log period, or a bar on a terminal. Details are in log.txt."""

from __future__ import annotations

import datetime
import logging
import math
import sys
from collections import defaultdict
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from detrex_ext.runtime import EventStorage, HookBase, get_event_storage

from .events import EventWriter, is_early
from .hooks import DataShare
from .log import on_terminal
from .writing import PeriodicWriter, config_writers

logger = logging.getLogger(__name__)
_WIDTH = 120


def loss_groups(losses: dict[str, float]) -> dict[str, float]:
    """Sums of ``loss_<term>[_<group>][_<path>]`` by group and path; those of neither are "main".

    A term is what stands alone; a name that extends no other term is a term itself.
    """
    names = [name.removeprefix("loss_") for name in losses]
    terms = [t for t in names if not any(t != other and t.startswith(f"{other}_") for other in names)]
    sums: dict[str, float] = defaultdict(float)
    for name, value in zip(names, losses.values(), strict=True):
        term = max((t for t in terms if name == t or name.startswith(f"{t}_")), key=len)
        sums[name[len(term) + 1 :] or "main"] += value
    return dict(sums)


class ProgressPrinter(EventWriter):
    """A console line of at most 120 columns, the time at its front included.

    Args:
        max_iter: length of the training.
        images: in a batch of all processes.
        metric: of the evaluation, shown as the last and the best so far.
        window: steps that medians are taken over.
        mode: ``max`` or ``min``, which of the metric is best.
    """

    early = True

    def __init__(
        self, max_iter: int, images: int, metric: str = "bbox/AP", window: int = 20, mode: str = "max"
    ) -> None:
        self.max_iter, self._images, self._metric, self._window = max_iter, images, metric, window
        self._best_of = {"max": max, "min": min}[mode]

    def write(self) -> None:
        """Log the line, on the console only; nothing at the write that follows a finished training."""
        storage = get_event_storage()
        if storage.iter < self.max_iter:
            logger.info(self.line(storage), extra={"only": "console"})

    def line(self, storage: EventStorage) -> str:
        """The line of now; what does not fit is left out from its end."""
        done = storage.iter + 1
        parts = [f"it {done}/{self.max_iter}", *self.facts(storage)]
        while len(parts) > 2 and len("  ".join(parts)) > _WIDTH - 10:  # of which "hh:mm:ss  " takes 10
            parts.pop()
        return "  ".join(parts)

    def facts(self, storage: EventStorage) -> list[str]:
        """Loss, time left, AP, speed, loss by groups, memory, learning rate: the most important first."""
        found, window = storage.histories(), self._window

        def median(name: str) -> float:
            return found[name].median(max(1, storage.count_samples(name, window)))

        losses = {n: median(n) for n in found if n.startswith("loss_") and "/" not in n}
        held = f" (val {found['val/total_loss'].latest():.4g})" if "val/total_loss" in found else ""
        facts = [f"loss {median('total_loss'):.4g}{held}"] if "total_loss" in found else []
        if "time" in found:
            step = found["time"].avg(max(1, storage.count_samples("time", window)))
            left = found["time"].global_avg() * (self.max_iter - storage.iter - 1)
            facts += [f"eta {datetime.timedelta(seconds=int(left))}", *self._score(found)]
            waited = None
            if "data_time" in found:
                waited = found["data_time"].avg(max(1, storage.count_samples("data_time", window)))
            facts += [self._speed(step, waited)]
        else:
            facts += self._score(found)
        groups = loss_groups(losses)
        if len(groups) > 1:
            facts.append("(" + " ".join(f"{name} {value:.3g}" for name, value in groups.items()) + ")")
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            facts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f}/{total / 2**30:.0f} GB")
        facts += [f"lr {found['lr'].latest():.3g}"] if "lr" in found else []
        return [fact for fact in facts if fact]

    def _speed(self, step: float, waited: float | None) -> str:
        if not step:
            return ""
        share = "" if waited is None else f" (data {min(waited / step, 1):.0%})"
        return f"{self._images / step:.3g} im/s{share}"

    def _score(self, found: dict[str, Any]) -> list[str]:
        if self._metric not in found:
            return []
        values = [value for value, _ in found[self._metric].values()]
        name = self._metric.rpartition("/")[2]
        # an AP of data without objects is not a number, and not the best
        best = self._best_of((value for value in values if not math.isnan(value)), default=values[-1])
        return [f"{name} {values[-1]:.1f}" + (f" (best {best:.1f})" if best not in values[-1:] else "")]


class ProgressBar(HookBase):
    """A bar on a terminal, from the first step on, instead of the lines of a :class:`ProgressPrinter`.

    Args:
        printer: says what stands behind the bar.
        period: steps between two looks at what is logged.
    """

    def __init__(self, printer: ProgressPrinter, period: int) -> None:
        self._printer, self._period = printer, period
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Draw it."""
        layout = "{percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt}{postfix}"
        start, total = self.trainer.start_iter, self.trainer.max_iter
        self._bar = tqdm(initial=start, total=total, file=sys.stdout, dynamic_ncols=True, bar_format=layout, leave=True)

    def after_step(self) -> None:
        """Move it on."""
        done = self.trainer.iter + 1
        if is_early(done) or done % self._period == 0 or done == self.trainer.max_iter:
            self._bar.total = self._printer.max_iter = self.trainer.max_iter
            self._bar.set_postfix_str("  ".join(self._printer.facts(self.trainer.storage)), refresh=False)
        self._bar.update(1)

    def after_train(self) -> None:
        """Leave it as it is."""
        self._bar.close()


def writer_hooks(cfg: DictConfig) -> list[HookBase]:
    """The hooks of rank 0 that write what a training stores.

    Args:
        cfg: the whole config; ``train.writers`` chooses.
    """
    train, period = cfg.train, cfg.train.log_period
    writers = config_writers(cfg)
    share = DataShare(period)
    if not train.writers.console:
        return [share, PeriodicWriter(writers, period)]
    best, images = train.best_checkpoint, cfg.dataloader.train.total_batch_size
    printer = ProgressPrinter(train.max_iter, images, best.metric, mode=best.mode)
    if on_terminal():
        return [share, ProgressBar(printer, period), PeriodicWriter(writers, period)]
    return [share, PeriodicWriter([writers[0], printer, *writers[1:]], period)]
