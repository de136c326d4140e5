"""Loss and AP over the iterations of one or more runs, from their ``metrics.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.run_folder import RunFolder, metric_lines
from ..errors import UserError

Series = dict[str, list[tuple[int, float]]]


def read_metrics(run: str | Path) -> Series:
    """Every scalar of a run as (iteration, value) points, by iteration.

    Where an iteration occurs twice (a resumed run repeats some), the later line counts; values that are not finite
    and a line cut off by a kill are left out.

    Args:
        run: run folder, or its ``metrics.json``.

    Raises:
        UserError: no such file, or nothing in it.
    """
    return {name: points for name, points in _read(run).items() if points}


def _read(run: str | Path) -> Series:
    """As `read_metrics`, with those that have no value yet, such as a share of objects found before one is."""
    path = Path(run) if Path(run).is_file() else RunFolder(run).metrics
    if not path.is_file():
        raise UserError(f"{run}: no {path.name} there\n  name run folders that train_net.py wrote")
    points: dict[str, dict[int, float]] = {}
    for row in metric_lines(path):
        for name, value in row.items():
            if name != "iteration" and isinstance(value, int | float | None):
                known = points.setdefault(name, {})
                if value is not None and math.isfinite(value):
                    known[row["iteration"]] = float(value)
    if not any(points.values()):
        raise UserError(f"{path}: holds no metrics yet; the first are written after train.log_period steps")
    return {name: sorted(values.items()) for name, values in points.items()}


def plot_curves(runs: Sequence[str | Path], output: str | Path, names: Sequence[str] | None = None) -> list[str]:
    """Draw total loss, learning rate and AP of the runs, one line a run (AP50 and the validation's loss dashed).

    Args:
        runs: run folders.
        output: the image, ``.png``, ``.pdf`` or ``.svg``; its folder is made.
        names: scalars to draw instead, one panel each.

    Returns:
        The scalars drawn.

    Raises:
        UserError: matplotlib is absent, a run has no metrics, none has one of ``names``, or ``output`` is no image.
    """
    require_matplotlib()
    series = {label: _read(run) for label, run in zip(labels(runs), runs, strict=True)}
    known = sorted({name for metrics in series.values() for name in metrics})
    for name in names or ():
        if name not in known:
            raise UserError(f"no run has '{name}'; there are: {', '.join(known)}")
    valued = [name for name in known if any(metrics.get(name) for metrics in series.values())]
    panels = [[name] for name in names] if names else _panels(valued)
    figure, axes = new_panels(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        for name, style in zip(panel, ("-", "--"), strict=False):
            for i, (label, metrics) in enumerate(series.items()):
                steps, values = zip(*(metrics.get(name) or [(math.nan, math.nan)]), strict=True)
                shown = label if len(panel) == 1 else f"{label} {name.removeprefix('bbox/')}"
                mark = "o" if len(steps) < 25 else ""
                axis.plot(steps, values, style, color=f"C{i}", marker=mark, markersize=3, label=shown)
        axis.set_xlabel("iteration")
        axis.set_title(" and ".join(panel))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save(figure, output)
    return [name for panel in panels for name in panel]


def save(figure: Any, output: str | Path) -> None:
    """Writes a matplotlib figure as what the file's ending says; its folder is made.

    Raises:
        UserError: matplotlib cannot write such a file, or nothing can be written there.
    """
    known = figure.canvas.get_supported_filetypes()
    if Path(output).suffix[1:].lower() not in known:
        raise UserError(f"{output}: no image's name\n  expected one that ends with .png, .pdf or .svg")
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from error


def require_matplotlib() -> None:
    """Raises a ``UserError`` where matplotlib is absent."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "drawing curves needs matplotlib, which is not installed\n  pip install 'detrex_ext[viz]'"
        ) from None
    matplotlib.use("Agg")


def new_panels(count: int) -> tuple[Any, Sequence[Any]]:
    """A matplotlib figure with so many axes in a row, and these; a ``UserError`` where matplotlib is absent."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * count, 3.8), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _panels(known: Sequence[str]) -> list[list[str]]:
    wanted = [["total_loss", "val/total_loss"], ["lr"], ["bbox/AP", "bbox/AP50"]]
    panels = [[name for name in panel if name in known] for panel in wanted]
    return [panel for panel in panels if panel] or [[known[0]]]


def labels(runs: Sequence[str | Path]) -> list[str]:
    """The runs' folder names, with as many of their parents as tell them apart."""
    files = [Path(run).resolve() for run in runs]
    folders = [(path.parent if path.is_file() else path).parts for path in files]
    depth = next(n for n in range(1, 99) if len({parts[-n:] for parts in folders}) == len(set(folders)))
    return ["/".join(parts[-depth:]) for parts in folders]
