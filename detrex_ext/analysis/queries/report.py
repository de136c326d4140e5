"""Metrics of queries per object, as numbers, table, JSON and curves.

Shape legend: L stages, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...visualization.curves import new_panels, save
from ..table import table

_STYLES = {"main": "-", "aux": "--", "no_sa": ":"}


@dataclass
class QueryReport:
    """Of each checkpoint of a run.

    Attributes:
        run: name of the run.
        affinity, thresholds, streams: what was counted.
        checkpoints: dicts with ``checkpoint``, ``iteration`` (None where it is not known), ``images``, ``objects``,
            and by stream ``above``, queries per object above each threshold (L, T), and ``best``, mean best affinity
            of an object (L).
    """

    run: str
    affinity: str
    thresholds: list[float]
    streams: list[str]
    checkpoints: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> QueryReport:
        """The report of ``to_dict``.

        Raises:
            ValueError: the values are of something else.
        """
        try:
            report = QueryReport(**values)
            for row in report.checkpoints:
                for name in report.streams:
                    row["above"][name], row["best"][name]
            known = bool(report.checkpoints and report.streams)
        except (TypeError, KeyError):
            known = False
        if not known:
            raise ValueError(f"expected an object with checkpoints and metrics of each; found {str(values)[:60]}")
        return report

    @property
    def stages(self) -> int:
        """L."""
        return len(self.checkpoints[0]["best"][self.streams[0]])

    def index(self, stage: int | None) -> int:
        """Index of a stage counted from 1; None means the last.

        Raises:
            UserError: the decoder has no such stage.
        """
        if stage is not None and not 1 <= stage <= self.stages:
            raise UserError(f"--stage {stage}: the decoder of {self.run} has stages 1 to {self.stages}")
        return self.stages - 1 if stage is None else stage - 1

    def check_like(self, other: QueryReport) -> None:
        """Raises a ``UserError`` where another report counts something else, or over checkpoints and this one not."""
        mine, its = (
            {
                "affinity": r.affinity,
                "thresholds": r.thresholds,
                "curves": "over checkpoints" if len(r.checkpoints) > 1 else "over stages",
            }
            for r in (self, other)
        )
        for name, value in mine.items():
            if its[name] != value:
                raise UserError(f"{other.run} cannot be drawn beside {self.run}: {name} {its[name]}, not {value}")

    def curves(self, stage: int | None, stream: str) -> tuple[str, list[int], list[list[float]]]:
        """Over checkpoints at a stage, or over stages where there is one checkpoint.

        Returns:
            Name of x, x, and the values for each threshold, then for the best affinity.
        """
        if len(self.checkpoints) > 1:
            at = self.index(stage)
            rows = [[*row["above"][stream][at], row["best"][stream][at]] for row in self.checkpoints]
            return "iteration", [row["iteration"] for row in self.checkpoints], _columns(rows)
        (row,) = self.checkpoints
        rows = [[*above, best] for above, best in zip(row["above"][stream], row["best"][stream], strict=True)]
        return "stage", list(range(1, self.stages + 1)), _columns(rows)

    def text(self, stage: int | None = None) -> str:
        """A table of one stage: a line for each checkpoint and stream."""
        at = self.index(stage)
        rows = [["checkpoint", "stream", *(f"> {t:g}" for t in self.thresholds), "best"]]
        for row in self.checkpoints:
            name = row["checkpoint"].rpartition("/")[2]
            for stream in self.streams:
                values = [*row["above"][stream][at], row["best"][stream][at]]
                rows.append([name, stream, *(f"{value:.3f}" for value in values)])
        first = self.checkpoints[0]
        seen = f"{first['objects']:,} objects in {first['images']:,} images"
        return f"queries per object at stage {at + 1}, affinity {self.affinity}, {seen}\n{table(rows)}"


def _columns(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def draw_queries(reports: Sequence[QueryReport], output: str | Path, stage: int | None = None) -> None:
    """Draws a PNG: a panel for each threshold of the first report, and one of the mean best affinity.

    Args:
        reports: of one or more runs that can be compared, a color each; streams differ in style.
        output: the image.
        stage: counted from 1; None = the last.

    Raises:
        UserError: matplotlib is absent, or a run does not have the stage.
    """
    first = reports[0]
    names = [f"queries per object, {first.affinity} > {t:g}" for t in first.thresholds]
    figure, axes = new_panels(len(names) + 1)
    for i, report in enumerate(reports):
        for stream in report.streams:
            along, places, curves = report.curves(stage, stream)
            for axis, values in zip(axes, curves, strict=True):
                label = f"{report.run}, {stream}"
                axis.plot(places, values, _STYLES[stream], color=f"C{i}", marker="o", markersize=3, label=label)
    for axis, name in zip(axes, [*names, f"best {first.affinity} of an object"], strict=True):
        axis.set_title(name)
        axis.set_xlabel(f"{along}, at stage {first.index(stage) + 1}" if along == "iteration" else along)
        axis.set_ylim(0, 1.08 * (axis.dataLim.y1 or 1))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    # a column a run, where it covers no curve
    figure.set_figheight(figure.get_figheight() + 0.25 * max(len(r.streams) for r in reports))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(reports))
    save(figure, output)
