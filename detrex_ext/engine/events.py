"""What writers have in common: lines of the event storage, and appending to a file that may be full for a while."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from detrex_ext.runtime import get_event_storage

Line = dict[str, Any]
"""Scalars by name, and ``iteration``."""


EARLY = (1, 2, 5, 10)
"""Steps after which a person is shown that it runs, whatever the log period."""


def is_early(done: int) -> bool:
    """Whether progress is shown after so many steps, whatever the log period."""
    return done in EARLY


class EventWriter:
    """Something that writes the open event storage somewhere. What it raises is told once and ends no training.

    Attributes:
        early: it writes after the first few steps too, see `EARLY`.
        retries: it goes on after an error; others write nothing more until the next start.
        max_iter: length of the training, kept up to date; None = it takes no interest.
    """

    early = False
    retries = False
    max_iter: int | None = None

    def begin(self, lines: Sequence[Line]) -> None:
        """Called before a training.

        Args:
            lines: of ``metrics.json``, of before the iteration that training goes on with; [] for a new run.
        """

    def write(self) -> None:
        """Write what is new in the storage that `get_event_storage` finds."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is written afterwards."""


class LineWriter(EventWriter):
    """Takes from the storage what is newer than the line before, as lines in order of iterations.

    Args:
        window_size: iterations that medians are taken over.
    """

    def __init__(self, window_size: int = 20) -> None:
        self._window = window_size
        self._last_write = -1

    def write(self) -> None:
        """Put the iterations that are newer than the last line."""
        lines: dict[int, Line] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window).items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        self._last_write = max(lines, default=self._last_write)
        self.put([{**lines[iteration], "iteration": iteration} for iteration in sorted(lines)])

    def put(self, lines: Sequence[Line]) -> None:
        """Write lines that were not written before; values may be NaN."""
        raise NotImplementedError


class Appended:
    """A file that is only appended to. What a full disk did not take stays, and goes with what comes next.

    Args:
        path: of the file; made where it is not there.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "ab", buffering=0)
        self._left = b""

    def write(self, text: str) -> None:
        """Append, and flush to the disk."""
        self._left += text.encode("utf-8", "backslashreplace")
        while self._left:
            self._left = self._left[self._file.write(self._left) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close it."""
        self._file.close()
