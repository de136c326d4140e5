"""What runs came to, and at which time, from their ``metrics.json``."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...visualization.curves import Series, labels, read_metrics
from ..table import table
from .groups import groups_of


@dataclass
class Run:
    """One training.

    Attributes:
        name: that tells it from the others.
        group: name of those that differ in their seed alone.
        metric: (steps made, value) of each evaluation.
        loss: the same of the total loss, as logged.
        minutes: (steps made, minutes spent on them), without evaluations; empty where no times were logged.
    """

    name: str
    group: str
    metric: list[tuple[int, float]]
    loss: list[tuple[int, float]]
    minutes: list[tuple[int, float]]

    @property
    def steps(self) -> int:
        """How many were made."""
        return max(series[-1][0] for series in (self.metric, self.loss, self.minutes) if series)

    def minutes_at(self, steps: int) -> float:
        """Spent on the first steps; between two that are known in proportion."""
        before, spent = 0, 0.0
        for known, minutes in self.minutes:
            if steps <= known:
                return spent + (minutes - spent) * (steps - before) / max(known - before, 1)
            before, spent = known, minutes
        return spent


@dataclass
class Comparison:
    """Runs, and the metric that they are compared by.

    Attributes:
        runs: those of one group one after another.
        metric: its name.
        falls: the smaller the better.
    """

    runs: list[Run]
    metric: str
    falls: bool = False

    @cached_property
    def groups(self) -> dict[str, list[Run]]:
        """Runs by the name of their group."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.group, []).append(run)
        return found

    @cached_property
    def shared_minutes(self) -> float | None:
        """The time of the shortest group, in which all its runs end; None where times are lacking."""
        if not all(run.minutes for run in self.runs):
            return None
        return min(max(run.minutes[-1][1] for run in runs) for runs in self.groups.values())

    def figures(self, run: Run) -> dict[str, float | None]:
        """Last and best value of the metric, the last in the shared time, steps and minutes."""
        values = [value for _, value in run.metric]
        found: dict[str, float | None] = {"last": values[-1], "best": (min if self.falls else max)(values)}
        if self.shared_minutes is not None:
            within = [v for steps, v in run.metric if run.minutes_at(steps) <= self.shared_minutes * (1 + 1e-9)]
            found["in equal time"] = within[-1] if within else None
        found["steps"] = float(run.steps)
        return {**found, "minutes": run.minutes[-1][1]} if run.minutes else found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the runs with their figures, and mean and spread of each group."""
        runs = [{**asdict(run), "figures": self.figures(run)} for run in self.runs]
        groups = {name: {figure: dict(zip(("mean", "sd"), spread(values), strict=True))
                         for figure, values in self._columns(group).items()}
                  for name, group in self.groups.items()}  # fmt: skip
        return {"metric": self.metric, "shared_minutes": self.shared_minutes, "runs": runs, "groups": groups}

    def text(self) -> str:
        """A table: a line for each group with mean and standard deviation, and under it one for each of its runs."""
        names = list(dict.fromkeys(name for run in self.runs for name in self.figures(run)))
        rows = [["", "runs", *(f"{self.metric} {n}" if n in ("last", "best") else n for n in names)]]
        for group, runs in self.groups.items():
            columns = self._columns(runs)
            rows.append([group, str(len(runs)), *(_shown(name, columns.get(name, [])) for name in names)])
            for run in runs if len(runs) > 1 else ():
                figures = self.figures(run)
                rows.append([f"  {run.name}", "", *(_shown(name, [figures.get(name)]) for name in names)])
        notes = ["± is the standard deviation over the runs of a group"]
        if self.shared_minutes is not None:
            notes.append(f"in equal time: at the last evaluation within {self.shared_minutes:.3g} minutes of steps, "
                         "the time of the shortest group")  # fmt: skip
        return "\n".join([table(rows), "", *notes])

    def _columns(self, runs: Sequence[Run]) -> dict[str, list[float | None]]:
        rows = [self.figures(run) for run in runs]
        return {name: [row.get(name) for row in rows] for name in rows[0]}


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation (of a sample) where there are two or more; None where a value is lacking."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def read_runs(paths: Sequence[str | Path], metric: str = "bbox/AP") -> Comparison:
    """The runs in their order, those of one group together.

    Args:
        paths: run folders; or files of metrics, whose runs are one group where their names differ in a number alone.
        metric: of the evaluation, or any scalar that was logged; one with "loss" in its name is the better the smaller.

    Raises:
        UserError: a run twice, without metrics, or without this one.
    """
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UserError(f"a run is named twice: {' '.join(map(str, paths))}")
    series = [read_metrics(path) for path in paths]
    for path, found in zip(paths, series, strict=True):
        if metric not in found:
            known = ", ".join(name for name in sorted(found) if "/" in name or name == "total_loss")
            raise UserError(f"{path}: no {metric} in its metrics; there are: {known or 'none of an evaluation'}")
    names = labels(paths)
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    groups = groups_of(paths, names)
    runs = [_run(*one, metric) for one in zip(names, groups, series, strict=True)]
    return Comparison(sorted(runs, key=lambda run: groups.index(run.group)), metric, "loss" in metric)


def _run(name: str, group: str, series: Series, metric: str) -> Run:
    minutes, before, spent = [], 0, 0.0
    for iteration, seconds in series.get("time", ()):
        done = iteration + 1  # the first iteration is 0
        spent += max(seconds, 0.0) * max(done - before, 0) / 60
        minutes.append((done, spent))
        before = done
    loss = [(iteration + 1, value) for iteration, value in series.get("total_loss", ())]
    # what is evaluated after the last iteration has the number of steps for its iteration
    ended = max((steps for steps, _ in (*loss, *minutes)), default=0)
    metrics = [(i if i == ended else i + 1, value) for i, value in series[metric]]
    return Run(name, group, metrics, loss, minutes)


def _shown(name: str, values: Sequence[float | None]) -> str:
    mean, sd = spread(values)
    if mean is None:
        return "-"
    digits = {"steps": 0}.get(name, 2)
    return f"{mean:.{digits}f}" + ("" if sd is None or (name == "steps" and not sd) else f" ± {sd:.{digits}f}")
