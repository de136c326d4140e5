"""Figures of every stage over the checkpoints of a run, as numbers, table and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..visualization.curves import new_panels, save
from .table import table


@dataclass
class StageCurves:
    """Of each checkpoint of a run.

    Attributes:
        run: name of the run.
        figures: what the figures are called in a row -> what they are in words.
        checkpoints: dicts with ``checkpoint``, ``iteration`` (None where it is not known), and by figure a list with a
            value for each stage, None where there is none.
    """

    run: str
    figures: dict[str, str]
    checkpoints: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> StageCurves:
        """The report of ``to_dict``.

        Raises:
            ValueError: the values are of something else.
        """
        try:
            report = StageCurves(**values)
            known = bool(report.checkpoints and report.figures)
            for row in report.checkpoints:
                known = known and all(isinstance(row[name], list) and row[name] for name in report.figures)
                row["iteration"], row["checkpoint"]
        except (TypeError, KeyError, AttributeError):
            known = False
        if not known:
            raise ValueError(f"expected an object with checkpoints and figures of each; found {str(values)[:60]}")
        return report

    @property
    def stages(self) -> int:
        """How many there are."""
        return len(self.checkpoints[0][next(iter(self.figures))])

    def text(self) -> str:
        """A table: a line for each checkpoint and stage."""
        rows = [["checkpoint", "stage", *self.figures]]
        for row in self.checkpoints:
            name = str(row["checkpoint"]).rpartition("/")[2]
            for stage in range(self.stages):
                values = (row[figure][stage] for figure in self.figures)
                rows.append([name, str(stage + 1), *("-" if v is None else f"{v:.4g}" for v in values)])
        return table(rows)


def draw_stages(reports: Sequence[StageCurves], output: str | Path) -> None:
    """Draws a PNG: a panel for each figure, and in it a curve for each stage of each run, over checkpoints.

    Where there is one checkpoint, a curve for each run over its stages.

    Args:
        reports: of one or more runs, a style of line each.
        output: the image.

    Raises:
        UserError: matplotlib is absent, or the runs have other figures.
    """
    first = reports[0]
    for other in reports[1:]:
        if list(other.figures) != list(first.figures):
            found, wanted = ", ".join(other.figures), ", ".join(first.figures)
            raise UserError(f"{other.run} cannot be drawn beside {first.run}: it has {found}, not {wanted}")
    alone = all(len(r.checkpoints) == 1 for r in reports)
    figure, axes = new_panels(len(first.figures))
    for axis, (name, words) in zip(axes, first.figures.items(), strict=True):
        for i, report in enumerate(reports):
            _draw(axis, report, name, ("-", "--", ":", "-.")[i % 4], alone, i)
        axis.set_title(words)
        axis.set_xlabel("stage" if alone else "iteration")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    lines = sum(1 if alone else r.stages for r in reports)
    figure.set_figheight(figure.get_figheight() + 0.25 * -(-lines // (2 * len(axes))))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(axes))
    save(figure, output)


def _draw(axis: Any, report: StageCurves, name: str, style: str, alone: bool, color: int) -> None:
    how = {"marker": "o", "markersize": 3}
    if alone:
        values = report.checkpoints[0][name]
        axis.plot(range(1, len(values) + 1), _shown(values), style, color=f"C{color}", label=report.run, **how)
        return
    places = [i if row["iteration"] is None else row["iteration"] for i, row in enumerate(report.checkpoints)]
    for stage in range(report.stages):
        values = _shown([row[name][stage] for row in report.checkpoints])
        axis.plot(places, values, style, color=f"C{stage}", label=f"{report.run}, stage {stage + 1}", **how)


def _shown(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if v is None else v for v in values]
