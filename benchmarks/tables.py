"""What benchmarks/compare.py keeps of a training, and its tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Run:
    """One training: which, and what came of it.

    Attributes:
        variant: name in the table.
        config: file or name of the config.
        overlay: overlays in order, comma-separated, and then overrides, all separated by blanks; "" = the bare model.
        seed: of the training.
        steps: optimizer steps made.
        ap, ap50, ap75: COCO figures of the last evaluation.
        curve: AP of each evaluation on the way, by step as text (as JSON keeps it).
        cpu_s, peak_mib: processor time and peak resident size of the process.
        stages: figures of the stage analysis, where it was made.
        queries: queries of the last stage near each object by stream, where they were counted: above each threshold
            of the affinity, and the mean best affinity.
        commit: of the code that trained.
    """

    variant: str
    config: str
    overlay: str
    seed: int
    steps: int = 0
    ap: float = 0.0
    ap50: float = 0.0
    ap75: float = 0.0
    curve: dict[str, float] | None = None
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    stages: dict[str, float] | None = None
    queries: dict[str, dict[str, float]] | None = None
    commit: str = ""


def table(runs: Sequence[Run]) -> str:
    """A Markdown row for each variant: mean and every seed's AP, means of the other figures."""
    lines = [
        "| variant | steps | AP | AP of each seed | AP50 | AP75 | processor time | peak MiB |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(r.variant for r in runs):
        group = [r for r in runs if r.variant == name]

        def mean(field: str, group: list[Run] = group) -> float:
            return statistics.mean(getattr(r, field) for r in group)

        seeds = ", ".join(f"{r.ap:.1f}" for r in group)
        lines.append(
            f"| {name} | {group[0].steps} | {mean('ap'):.1f} | {seeds} | {mean('ap50'):.1f} | {mean('ap75'):.1f} "
            f"| {mean('cpu_s'):.0f} s | {mean('peak_mib'):.0f} |"
        )
    return "\n".join(lines)


def curve_table(runs: Sequence[Run]) -> str:
    """AP of each evaluation, means over seeds; variants of other evaluations have their own lines of steps."""
    parts = []
    for steps in dict.fromkeys(tuple(r.curve) for r in runs if r.curve):
        own = [r for r in runs if r.curve and tuple(r.curve) == steps]
        made = [str(int(step) + (step != steps[-1])) for step in steps]  # the last one stands under its number
        parts += ["| AP after steps | " + " | ".join(made) + " |", "|---|" + "---:|" * len(steps)]
        for name in dict.fromkeys(r.variant for r in own):
            curves = [r.curve for r in own if r.variant == name]
            means = (statistics.mean(c[step] for c in curves) for step in steps)
            parts.append(f"| {name} | " + " | ".join(f"{m:.1f}" for m in means) + " |")
        parts.append("")
    return "\n".join(parts).strip()


def stage_table(runs: Sequence[Run]) -> str:
    """AP by stage and what the last stage made of the earlier ones at IoU 0.75, means over seeds; "" without any."""
    runs = [r for r in runs if r.stages]
    if not runs:
        return ""
    columns = list(max((r.stages for r in runs), key=len))
    lines = ["| variant | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in dict.fromkeys(r.variant for r in runs):
        group = [r.stages for r in runs if r.variant == name]
        means = [statistics.mean(s[c] for s in group) if c in group[0] else None for c in columns]
        lines.append(f"| {name} | " + " | ".join("-" if m is None else f"{m:.1f}" for m in means) + " |")
    return "\n".join(lines)


def query_table(runs: Sequence[Run]) -> str:
    """Queries near each object by stream, means over seeds; "" where none were counted."""
    runs = [r for r in runs if r.queries]
    if not runs:
        return ""
    columns = [(stream, name) for stream, figures in runs[0].queries.items() for name in figures]
    lines = ["| variant | " + " | ".join(f"{s} {n}" for s, n in columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in dict.fromkeys(r.variant for r in runs):
        group = [r.queries for r in runs if r.variant == name]
        means = [statistics.mean(q[stream][name] for q in group) for stream, name in columns]
        lines.append(f"| {name} | " + " | ".join(f"{m:.2f}" for m in means) + " |")
    return "\n".join(lines)
