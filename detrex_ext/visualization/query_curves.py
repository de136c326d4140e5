"""Queries per object of runs as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .curves import new_panels, save

_STYLES = {"main": "-", "aux": "--", "no_sa": ":"}


def draw_queries(reports: Sequence[Any], output: str | Path, stage: int | None = None) -> None:
    """Draws a PNG: a panel for each threshold of the first report, and one of the mean best affinity.

    Args:
        reports: ``analysis.query_report.QueryReport`` of one or more runs that can be compared, a colour each; streams
            differ in style.
        output: the picture.
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
