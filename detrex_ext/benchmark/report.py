"""Running a suite, and what was measured as rows, Markdown and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from tabulate import tabulate

from . import models
from .measure import Options, medians, peak_alone, work_of
from .suites import Cell

Row = dict[str, Any]
REPEATS = {"criterion": 15, "step": 5, "attention": 15, "inference": 7, "sampling": 15, "tiles": 15}
TIMES_ONLY = ("sampling", "tiles")  # so many cells that a process for each would take an hour
HEAD = ("implementation", "type", "median", "ratio", "peak MiB", "ratio")
HEAD += ("GFLOP", "at GEMM rate", "GiB moved", "at bandwidth")  # of whole models


def run(
    cells: Sequence[Cell],
    options: Options,
    machine: dict[str, Any],
    repeats: int | None = None,
    memory: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[list[Row]]:
    """Rows of cells, one case at a time.

    Args:
        cells: of a suite, those of a case side by side.
        options: how they were made.
        machine: from :func:`~detrex_ext.benchmark.measure.machine`.
        repeats: of each cell; the median is taken.
        memory: whether to start a process for each cell to measure its peak, but in the suites ``TIMES_ONLY``.
        say: told what is going on.
    """
    for case, group in groupby(cells, key=lambda c: c.case):
        members = list(group)
        suite = members[0].suite
        say(f"{suite}: {case}: {len(members)} implementations")
        works = [c.build() for c in members]
        taken = medians(works, repeats or REPEATS[suite], options.device)
        counted = [work_of(w) if suite in ("step", "inference") else None for w in works]
        del works
        peaks = [peak_alone(c.build, options.device) if memory and suite not in TIMES_ONLY else None for c in members]
        yield [
            _row(cell, members[0], taken[i], taken[0], peaks[i], peaks[0], _limits(counted[i], cell.dtype, machine))
            for i, cell in enumerate(members)
        ]


def _row(
    cell: Cell, first: Cell, taken: float, base: float, peak: float | None, peak_base: float | None, limits: Row
) -> Row:
    return {
        "suite": cell.suite,
        "case": cell.case,
        "host": cell.host,
        "side": cell.side,
        "impl": cell.impl,
        "dtype": cell.dtype,
        "median_s": taken,
        "peak_mib": peak,
        "ratio_to": f"{first.impl} {first.dtype}",
        "ratio": taken / base,
        "peak_ratio": None if peak is None or not peak_base else peak / peak_base,
        **limits,
    }


def _limits(counted: tuple[float, float] | None, dtype: str, machine: dict[str, Any]) -> Row:
    """Work of a step, and the least seconds the machine could take: all at its GEMM rate, all at its bandwidth."""
    if counted is None:
        return {}
    flops, moved = counted
    return {
        "gflop": flops / 1e9,
        "gib_moved": moved / 2**30,
        "gemm_s": flops / machine[f"gemm_{dtype}"],
        "bandwidth_s": moved / machine["bandwidth"],
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The machine, and what it can do."""
    return (
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}: "
        f"{machine['gemm_fp32'] / 1e9:.0f} GFLOP/s in fp32, {machine['gemm_bf16'] / 1e9:.0f} in bf16, "
        f"{machine['bandwidth'] / 2**30:.1f} GiB/s."
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of a case."""
    table = [_texts(row) for row in rows]
    ways = ["left", "left", *["right"] * (len(table[0]) - 2)]
    text = tabulate(table, HEAD[: len(table[0])], "pipe", disable_numparse=True, colalign=ways)
    return f"**{rows[0]['suite']}: {rows[0]['case']}** (ratios to {rows[0]['ratio_to']})\n\n{text}"


def _texts(r: Row) -> list[str]:
    """Of a row, as in ``HEAD``."""
    peak = ["-", "-"] if r["peak_mib"] is None else [f"{r['peak_mib']:.0f}", f"{r['peak_ratio']:.2f}"]
    found = [r["impl"], r["dtype"], _time(r["median_s"]), f"{r['ratio']:.2f}", *peak]
    if "gflop" in r:
        found += [f"{r['gflop']:.0f}", _time(r["gemm_s"]), f"{r['gib_moved']:.1f}", _time(r["bandwidth_s"])]
    return found


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g} ms"


def notes(rows: Sequence[Row], options: Options) -> list[str]:
    """What the rows of a case say together: the share of the solver, the price of each strategy."""
    by = {(r["impl"], r["dtype"]): r for r in rows}
    ours, solver = by.get(("detrex_ext", "fp32")), by.get(("assignment solver alone", "fp32"))
    if ours and solver:
        share = solver["median_s"] / ours["median_s"]
        return [f"{ours['case']}: the assignment solver is {share:.0%} of detrex_ext's time"]
    if ours is None or ours["suite"] != "step":
        return []
    found = ((names, by.get((f"detrex_ext+{names}", "fp32"))) for names in options.strategies)
    return [_price(names, row, ours, options) for names, row in found if row is not None]


def _price(names: str, row: Row, bare: Row, options: Options) -> str:
    text = f"{row['case']}: {names} takes {row['median_s'] / bare['median_s']:.2f}x of the bare time"
    counts = [models.count_sets(bare["host"], chosen, options) for chosen in (names.split("+"), ())]
    more = counts[0] - counts[1]
    if row["peak_mib"] is not None:
        text += f" and {row['peak_mib'] / bare['peak_mib']:.2f}x of its memory"
    if more > 0:
        text += f"; it adds {more} sets, {_time((row['median_s'] - bare['median_s']) / more)}"
        if row["peak_mib"] is not None:
            text += f" and {(row['peak_mib'] - bare['peak_mib']) / more:.1f} MiB"
        text += " for each"
    return text
