"""Writers of what the event storage holds: console, metrics.json, TensorBoard; detectron2's formats."""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import time
from collections import defaultdict
from functools import cached_property
from typing import Any

import torch

from detrex_ext.checkpoint.run_folder import RunFolder, metric_lines
from detrex_ext.runtime import EventStorage, get_event_storage

_log = logging.getLogger(__name__)


class EventWriter:
    """Something that writes the open event storage somewhere.

    Attributes:
        early: it writes after the first few steps too, see `hooks.EARLY`.
        max_iter: length of the training, kept up to date; None = it takes no interest.
    """

    early = False
    max_iter: int | None = None

    def write(self) -> None:
        """Write what is new in the storage that `get_event_storage` finds."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is written afterwards."""


class CommonMetricPrinter(EventWriter):
    """One console line: eta, iteration, losses (medians), times, learning rate, memory.

    Losses per stage (names with a "/") are left to the other writers. It also stores `eta_seconds`, which writers
    after it see.

    Args:
        max_iter: length of the training, for the time left.
        window_size: iterations that medians are taken over.
        only: "file" keeps the line off the console.

    Attributes:
        logger: that the line goes to.
    """

    logger = _log

    def __init__(self, max_iter: int | None = None, window_size: int = 20, only: str = "") -> None:
        self.max_iter, self._window, self._only = max_iter, window_size, only
        self._last: tuple[int, float] | None = None  # iteration and time of the last line

    def _eta(self, storage: EventStorage) -> str | None:
        """Time to go, from what an `IterationTimer` stored, else from the time since the last line."""
        if self.max_iter is None:
            return None
        before, self._last = self._last, (storage.iter, time.perf_counter())
        if "time" in storage.histories():
            each = storage.history("time").global_avg()
        elif before is not None and before[0] < storage.iter:
            each = (self._last[1] - before[1]) / (storage.iter - before[0])
        else:
            return None
        seconds = each * (self.max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        """Log the line; nothing at the write that follows a finished training."""
        storage = get_event_storage()
        if storage.iter == self.max_iter:
            return  # the final write of a training: only what the evaluation added
        histories = storage.histories()

        def median(name: str) -> float:
            return histories[name].median(storage.count_samples(name, self._window))

        eta = self._eta(storage)
        fields = [f"eta: {eta}" if eta else "", f"iter: {storage.iter}"]
        fields += [f"{k}: {median(k):.4g}" for k in list(histories) if "loss" in k and "/" not in k]
        fields += [f"{k}: {median(k):.4g}" for k in list(histories) if "[metric]" in k]
        for name in ("time", "data_time"):
            if name in histories:
                fields += [f"{name}: {histories[name].avg(storage.count_samples(name, self._window)):.4f}"]
                fields += [f"last_{name}: {histories[name].latest():.4f}"]
        fields += [f" lr: {histories['lr'].latest():.5g}" if "lr" in histories else " lr: N/A"]
        if torch.cuda.is_available():
            fields += [f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"]
        _log.info(" " + "  ".join(field for field in fields if field), extra={"only": self._only})


class JSONWriter(EventWriter):
    """metrics.json: one JSON object per line and iteration, in order of iterations; NaN and infinity as null."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._path = json_file
        self._window = window_size
        self._last_write = max((line["iteration"] for line in metric_lines(json_file)), default=-1)
        self._file = open(json_file, "a", encoding="utf-8")

    def write(self) -> None:
        """Append the iterations that are newer than the last line, and flush them to the disk."""
        storage = get_event_storage()
        lines: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window).items():
            if iteration > self._last_write:
                lines[iteration][name] = value if math.isfinite(value) else None
        for iteration in sorted(lines):
            line = {**lines[iteration], "iteration": iteration}
            self._file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        if lines:
            self._last_write = max(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorboardXWriter(EventWriter):
    """TensorBoard events under the same names; does nothing but say so once where tensorboard cannot."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._log_dir, self._window, self._kwargs = log_dir, window_size, kwargs
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        """Torch's writer, made at first use; None where it cannot be."""
        try:
            from torch.utils.tensorboard import SummaryWriter

            return SummaryWriter(self._log_dir, **self._kwargs)
        except ImportError:
            _log.info("tensorboard is not installed: no event files (pip install tensorboard)")
        except UnicodeError:  # the folder's name in bytes that are no UTF-8, or in a locale that is not of it
            _log.info("tensorboard cannot write to a folder of this name: no event files")
        return None

    def write(self) -> None:
        """Add the scalars since the last call, and all images, which leave the storage."""
        writer, storage = self._writer, get_event_storage()
        if not writer:
            return
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window).items():
            if iteration > self._last_write:
                writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        """Close the event file, if one was opened."""
        writer = vars(self).get("_writer")
        if writer:
            writer.close()


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """`log.txt`, `output_dir/metrics.json`, TensorBoard; in this order, so that the latter two see `eta_seconds`."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter, only="file"),
        JSONWriter(str(RunFolder(output_dir).metrics)),
        TensorboardXWriter(output_dir),
    ]
