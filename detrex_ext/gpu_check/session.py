"""All steps in order, each in the time that it has: one that crashes or hangs costs itself and a new process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from .process import Worker
from .results import Result
from .table import STEPS_OF_THE_CHECK, Options, Step
from .watch import Watch

LEAST = 10.0  # seconds under which no step is begun: a process needs them to start
_PAUSE = 0.05


class Session:
    """The check, once.

    Args:
        steps: in order.
        options: what cases are told.
        minutes: for all of it.
        out: folder, there already; gets ``events.jsonl`` and ``log.txt``.
        changed: called with all results whenever a row comes or a step ends.
        table: where workers find the steps.
    """

    def __init__(
        self, steps: Sequence[Step], options: Options, minutes: float, out: Path,
        changed: Callable[[list[Result], Result], None] = lambda results, one: None, table: str = STEPS_OF_THE_CHECK,
    ) -> None:  # fmt: skip
        self.results = [Result(step) for step in steps]
        self.options, self.minutes, self.changed, self.table = options, minutes, changed, table
        self.events, self.log = out / "events.jsonl", out / "log.txt"
        for file in (self.events, self.log):
            file.write_bytes(b"")
        self._end = 0.0

    def run(self) -> list[Result]:
        """All steps, until they are over or the time is."""
        self._end = time.monotonic() + 60 * self.minutes
        while open_ones := [result for result in self.results if not result.over]:
            first = open_ones[0]
            if self._end - time.monotonic() < LEAST:
                for result in open_ones:
                    result.close("left out", f"{max(self._end - time.monotonic(), 0):.0f} s were left")
                    self._tell(result)
                break
            group = [first]
            for result in open_ones[1:]:
                if result.step.fresh:
                    break
                group.append(result)
            self._work(group)
        return self.results

    def _work(self, group: list[Result]) -> None:
        """One worker at the cases of a group that have no row yet, until it is through, ends or is ended."""
        task = {
            "table": self.table, "options": asdict(self.options), "events": str(self.events),
            "steps": [result.step.name for result in group],
            "done": [(result.step.name, name) for result in group for name in result.rows],
        }  # fmt: skip
        watch = Watch(group, self._tell, self._end)
        worker = Worker(task, self.events, self.log)
        try:
            while True:
                code = worker.code()  # before the events are read, so that none is missed
                for event in worker.new():
                    watch.take(event)
                if code is not None:
                    watch.ended(code, worker.last_words())
                    return
                if watch.too_long():
                    return
                time.sleep(_PAUSE)
        finally:
            worker.end()

    def _tell(self, result: Result) -> None:
        self.changed(self.results, result)
