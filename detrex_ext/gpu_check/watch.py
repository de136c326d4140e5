"""One worker's way through the steps of its task: what it tells, and what its end or its silence means."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .results import Result
from .table import found

_MOST_ENDS = 3  # of processes in one step, until the rest of it is left out


class Watch:
    """Follows a worker.

    Args:
        group: the steps of its task, the first of them open.
        changed: called with a step where a row came, or its state.
        end: of the whole check, by the monotonic clock.
    """

    def __init__(self, group: list[Result], changed: Callable[[Result], None], end: float) -> None:
        self.group, self.changed, self.end = group, changed, end
        self.at = group[0]
        self.at.state = "running"
        self.case: str | None = None
        now = time.monotonic()
        self.since, self.case_since = now - self.at.seconds, now  # time of earlier processes counts

    def take(self, event: dict[str, Any]) -> None:
        """An event of the worker."""
        kind, now = event["event"], time.monotonic()
        if kind == "step" and event["step"] != self.at.step.name:
            self.at = next(result for result in self.group if result.step.name == event["step"])
            self.at.state, self.since = "running", now - self.at.seconds
        elif kind == "cases":
            self.at.names = event["names"]
        elif kind == "case":
            self.case, self.case_since = event["case"], now
        elif kind == "row":
            self.at.rows[event["case"]] = {**event["row"], "seconds": event["seconds"]}
            self.case = None
        self.at.seconds = now - self.since
        if kind == "row":
            self.changed(self.at)
        elif kind == "end":
            self._close(self.at, None)

    def too_long(self) -> bool:
        """Whether the case, the step or the whole check has had its time; who had it is marked."""
        now, step = time.monotonic(), self.at.step
        if self.at.over:  # between two steps
            return now >= self.end
        self.at.seconds = now - self.since
        if now >= self.end:
            self._row("the time of the whole check was over")
            self._close(self.at, "overran", "the time of the whole check was over")
        elif self.at.seconds >= step.seconds:
            self._row(f"the {step.seconds:g} s of the step were over")
            self._close(self.at, "overran", f"not through after its {step.seconds:g} s")
        elif self.case is not None and now - self.case_since >= step.case_seconds:
            self._row(f"no end after {step.case_seconds:g} s")
            self._again("hung")
        else:
            return False
        return True

    def ended(self, code: int, words: str) -> None:
        """The worker is gone."""
        if code == 0 or all(result.over for result in self.group):
            for result in (r for r in self.group if not r.over):
                self._close(result, None)
            return
        said = f"the process ended with code {code}" + (f": {words}" if words else "")
        if self.case is None and not self.at.rows:
            self._close(self.at, "crashed", said[-500:])
            return
        self._row(said)
        self._again("ended the process")

    def _close(self, result: Result, state: str | None, note: str = "") -> None:
        result.close(state, note)
        self.changed(result)

    def _row(self, note: str) -> None:
        if self.case is not None:
            seconds = round(time.monotonic() - self.case_since, 2)
            self.at.rows[self.case] = {**found(False, note), "seconds": seconds}
            self.case = None

    def _again(self, what: str) -> None:
        """The next worker goes on behind the case; not for ever."""
        if self.at.over:
            return
        self.at.ends += 1
        if self.at.ends >= _MOST_ENDS:
            self._close(self.at, "crashed", f"{self.at.ends} cases {what}; the rest was left out")
        else:
            self.changed(self.at)
