"""Writers of what the event storage holds: console, metrics.json, metrics.csv; detectron2's names and formats."""

from __future__ import annotations

import csv
import datetime
import io
import json
import logging
import math
import os
import time
from collections.abc import Sequence

import torch

from detrex_ext.checkpoint.files import write_whole
from detrex_ext.checkpoint.run_folder import RunFolder, metric_lines
from detrex_ext.runtime import EventStorage, get_event_storage

from .boards import TensorboardXWriter
from .boards import WandbWriter as WandbWriter
from .events import Appended, EventWriter, Line, LineWriter

_log = logging.getLogger(__name__)


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


class JSONWriter(LineWriter):
    """metrics.json: one JSON object per line and iteration, in order of iterations; NaN and infinity as null."""

    retries = True

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        super().__init__(window_size)
        self._path = json_file
        self._last_write = max((line["iteration"] for line in self.lines()), default=-1)
        self._file = Appended(json_file)

    def lines(self) -> list[Line]:
        """What the file holds, numbers and null."""
        lines = metric_lines(self._path)
        return [{k: v for k, v in line.items() if v is None or isinstance(v, int | float)} for line in lines]

    def put(self, lines: Sequence[Line]) -> None:
        """Append lines, and flush them to the disk."""
        finite = ({k: v if math.isfinite(v) else None for k, v in line.items()} for line in lines)
        self._file.write("".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in finite))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CSVWriter(LineWriter):
    """metrics.csv: a row for each line of metrics.json; what has no value, or none that is finite, is empty.

    Columns keep their order over a resume. A new one comes last, for which the file is written anew.

    Args:
        csv_file: path of the file.
        window_size: iterations that medians are taken over.
    """

    retries = True

    def __init__(self, csv_file: str, window_size: int = 20) -> None:
        super().__init__(window_size)
        self._path = csv_file
        self._columns = ["iteration"]
        self._file: Appended | None = None

    def begin(self, lines: Sequence[Line]) -> None:
        """Make the file what an uninterrupted training would have by now."""
        self._columns = list(dict.fromkeys(["iteration", *next(iter(self._rows()), [])]))
        self._last_write = max((line["iteration"] for line in lines), default=-1)
        self._write_anew([], lines)

    def put(self, lines: Sequence[Line]) -> None:
        """Append rows."""
        if self._file is None or any(name not in self._columns for line in lines for name in line):
            self._write_anew(self._rows()[1:], lines)
        else:
            self._file.write(self._text(lines))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write_anew(self, rows: Sequence[Sequence[str]], lines: Sequence[Line]) -> None:
        new = {name for line in lines for name in line} - set(self._columns)
        self._columns += sorted(new, key=lambda name: ("/" in name, name))  # stages and classes come last
        head = io.StringIO(newline="")
        csv.writer(head, lineterminator="\n").writerows(
            [self._columns, *([*row, *[""] * (len(self._columns) - len(row))] for row in rows)]
        )
        text = head.getvalue() + self._text(lines)
        self.close()
        write_whole(self._path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
        self._file = Appended(self._path)

    def _text(self, lines: Sequence[Line]) -> str:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, self._columns, lineterminator="\n")
        rows.writerows({k: v for k, v in line.items() if v is not None and math.isfinite(v)} for line in lines)
        return text.getvalue()

    def _rows(self) -> list[list[str]]:
        """Of the file, the columns first; [] where there is none that can be read."""
        try:
            with open(self._path, encoding="utf-8", newline="") as file:
                return list(csv.reader(file))
        except (OSError, ValueError, csv.Error):
            return []


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """`log.txt`, `output_dir/metrics.json`, TensorBoard; in this order, so that the latter two see `eta_seconds`."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter, only="file"),
        JSONWriter(str(RunFolder(output_dir).metrics)),
        TensorboardXWriter(output_dir),
    ]
