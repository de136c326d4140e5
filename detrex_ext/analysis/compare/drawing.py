"""Curves of groups of runs: the mean with its spread, and each run in a thin line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...visualization.curves import new_panels, save
from .runs import Comparison, Run, spread

Points = list[tuple[float, float]]


def draw_comparison(found: Comparison, output: str | Path) -> None:
    """Draws the loss over steps, the metric over steps, and where times are known the metric over minutes.

    Args:
        found: the runs.
        output: the image, ``.png``, ``.pdf`` or ``.svg``.

    Raises:
        UserError: matplotlib is absent, or the image cannot be written.
    """
    panels: list[tuple[str, str, Callable[[Run], Points]]] = []
    if all(run.loss for run in found.runs) and found.metric != "total_loss":
        panels.append(("total_loss", "steps", lambda run: run.loss))
    panels.append((found.metric, "steps", lambda run: run.metric))
    if found.shared_minutes is not None:
        panels.append((found.metric, "minutes of steps", lambda run: [(run.minutes_at(s), v) for s, v in run.metric]))
    figure, axes = new_panels(len(panels))
    for axis, (title, unit, points) in zip(axes, panels, strict=True):
        for number, (name, runs) in enumerate(found.groups.items()):
            label = name if len(runs) == 1 else f"{name} ({len(runs)} runs)"
            _draw(axis, [points(run) for run in runs], f"C{number % 10}", "-" if number < 10 else "--", label)
        axis.set_title(title)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.3)
    columns = min(len(found.groups), 2 * len(axes))
    rows = -(-len(found.groups) // columns)
    figure.set_figheight(figure.get_figheight() + 0.25 * rows)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    save(figure, output)


def mean_curve(curves: Sequence[Points]) -> tuple[list[float], list[float], list[float]]:
    """(x, mean, standard deviation) over the first points, as many as all curves have."""
    found = []
    for points in zip(*curves, strict=False):
        (x, _), (mean, sd) = spread([x for x, _ in points]), spread([y for _, y in points])
        found.append((x, mean, sd or 0.0))
    return tuple(map(list, zip(*found, strict=True)))


def _draw(axis: Any, curves: Sequence[Points], color: str, style: str, label: str) -> None:
    mark = {"marker": "o", "markersize": 3} if max(map(len, curves)) < 25 else {}
    for points in curves if len(curves) > 1 else ():
        axis.plot(*zip(*points, strict=True), style, color=color, linewidth=0.7, alpha=0.4)
    x, mean, sd = mean_curve(curves)
    axis.plot(x, mean, style, color=color, label=label, **mark)
    if len(curves) > 1:
        low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
        axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
