#!/usr/bin/env python
"""Arithmetic of benchmarks/value.py: which length is best, whether a difference is one, and the tables.

    python benchmarks/value_tables.py benchmarks/value_results.jsonl       # the tables of value.md, from its results
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

SURE = 0.95
# AP that longer training may still gain at a plateau
FLAT = 0.5
BySeed = Mapping[int, float]


@dataclass
class Trained:
    """One finished training.

    Attributes:
        data, variant, seed, steps: which; the bare model is the variant "bare".
        overlay: overlays, comma-separated, and then overrides, all separated by blanks.
        select: AP of the kept checkpoint, the best of its evaluations, on the selection split.
        seconds: of a step, by the clock of the protocol.
        report: AP of that checkpoint on the reported split; None until it is asked for, once.
        commit: of the code that trained.
    """

    data: str
    variant: str
    seed: int
    steps: int
    overlay: str = ""
    select: float = 0.0
    seconds: float = 0.0
    report: float | None = None
    commit: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells it from all others."""
        return self.data, self.variant, self.steps, self.seed


def read(text: str) -> dict[tuple[str, str, int, int], Trained]:
    """Results from the lines of a file, by key; a later line of a run replaces the earlier."""
    runs = {}
    for line in text.splitlines():
        try:
            run = Trained(**json.loads(line))
        except (ValueError, TypeError):  # cut off when the machine went
            continue
        runs[run.key] = run
    return runs


@dataclass(frozen=True)
class Difference:
    """Of two variants, paired by seed.

    Attributes:
        mean: of the differences.
        within: half the width of the 95 % interval of their mean, by Student's t; None of one seed.
    """

    mean: float
    within: float | None

    @property
    def shown(self) -> bool | None:
        """Whether the mean is farther from 0 than chance would have it; None of one seed."""
        return None if self.within is None else abs(self.mean) > self.within

    def __str__(self) -> str:
        return f"{self.mean:+.1f}" + ("" if self.within is None else f" ± {self.within:.1f}")


def difference(own: BySeed, bare: BySeed) -> Difference:
    """Paired by seed, over the seeds that both have; at least one.

    Raises:
        ValueError: no seed in common.
    """
    gains = [own[seed] - bare[seed] for seed in sorted(own.keys() & bare.keys())]
    if not gains:
        raise ValueError(f"no seed in common: {sorted(own)} and {sorted(bare)}")
    n, mean = len(gains), statistics.fmean(gains)
    if n == 1:
        return Difference(mean, None)
    return Difference(mean, float(student.ppf((1 + SURE) / 2, n - 1)) * statistics.stdev(gains) / math.sqrt(n))


def by_seed(runs: Sequence[Trained], field: str) -> dict[int, float]:
    """A figure of runs of one variant and length; those that have none are left out."""
    return {run.seed: value for run in runs if (value := getattr(run, field)) is not None}


def best_length(bare: Sequence[Trained]) -> int:
    """The number of steps whose mean AP on the selection split is highest; of equals the smallest."""
    lengths = sorted({run.steps for run in bare})
    return max(lengths, key=lambda n: statistics.fmean(run.select for run in bare if run.steps == n))


def plateau(bare: Sequence[Trained]) -> tuple[bool, str]:
    """Whether the longest trainings gain no more than FLAT on the selection split, and the line that says it.

    It goes by the mean: few seeds that differ widely show neither a gain nor a plateau.
    """
    lengths = sorted({run.steps for run in bare})
    if len(lengths) < 2:
        return False, "one length alone: whether longer training helps is not known"
    before, last = (by_seed([r for r in bare if r.steps == n], "select") for n in lengths[-2:])
    gain = difference(last, before)
    said = f"from {lengths[-2]} to {lengths[-1]} steps the bare model gains {gain} AP on the selection split"
    return gain.mean <= FLAT, f"{said}: the plateau is {'' if gain.mean <= FLAT else 'not '}reached"


def equal_time(best: int, bare: Sequence[Trained], own: Sequence[Trained], grid: int) -> int:
    """Steps that a strategy makes in the time of the bare model's best length, to the nearest multiple of a grid.

    Medians over seeds of the seconds of a step decide.
    """
    ratio = statistics.median(r.seconds for r in bare) / statistics.median(r.seconds for r in own)
    return max(grid, round(best * ratio / grid) * grid)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, and each value."""
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{sd} | {', '.join(f'{v:.1f}' for v in values)}"


def tables(data: str, runs: Sequence[Trained], seeds: Sequence[int], grid: int) -> str:
    """What is known of one data set, in Markdown; rows that lack seeds say so."""
    bare = [r for r in runs if r.variant == "bare"]
    lines = [f"## {data}", "", "| bare, steps | AP, selection split | of each seed |", "|---:|---:|---|"]
    for steps in sorted({r.steps for r in bare}):
        lines.append(f"| {steps} | {spread([r.select for r in bare if r.steps == steps])} |")
    best = best_length(bare)
    lines += ["", f"{plateau(bare)[1]}; best: {best} steps.", ""]
    lines += ["| variant | at equal | steps | a step's time | AP, reported split | of each seed | to bare | shown |",
              "|---|---|---:|---:|---:|---|---:|---|"]  # fmt: skip
    base = [r for r in bare if r.steps == best and r.report is not None]
    if not base:
        return "\n".join([*lines, "| bare | | | | not evaluated yet | | | |"])
    usual = statistics.median(r.seconds for r in base)
    lines.append(f"| bare | | {best} | x 1.00 | {spread([r.report for r in base])} | | |")
    for name in dict.fromkeys(r.variant for r in runs if r.variant != "bare"):
        first = [r for r in runs if r.variant == name and r.steps == best]
        at = {"steps": best} | ({"time": equal_time(best, base, first, grid)} if first else {})
        for equal, steps in at.items():
            own = [r for r in runs if (r.variant, r.steps) == (name, steps) and r.report is not None]
            if not {r.seed for r in own} & {r.seed for r in base}:
                continue
            gain = difference(by_seed(own, "report"), by_seed(base, "report"))
            shown = {None: "one seed", True: "yes", False: "no"}[gain.shown]
            few = "" if len(own) == len(seeds) else f"; {len(own)} of {len(seeds)} seeds"
            price = statistics.median(r.seconds for r in own) / usual
            figures = spread([r.report for r in own])
            lines.append(f"| {name} | {equal} | {steps} | x {price:.2f} | {figures} | {gain} | {shown}{few} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="results.jsonl of benchmarks/value.py")
    parser.add_argument("--grid", type=int, default=50, metavar="N", help="as it was given there")
    args = parser.parse_args()
    runs = read(args.results.read_text(encoding="utf-8")).values()
    seeds = {run.seed for run in runs}
    for data in dict.fromkeys(run.data for run in runs):
        print(tables(data, [run for run in runs if run.data == data], sorted(seeds), args.grid), end="\n\n")


if __name__ == "__main__":
    main()
