"""Running a suite, and its figures as rows, Markdown and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from . import models
from .measure import Options, medians, peak_alone, work_of
from .suites import Cell, cells, spec_of

Row = dict[str, Any]
REPEATS = {"criterion": 15, "step": 5, "attention": 15, "inference": 7}


def run(
    suite: str,
    options: Options,
    machine: dict[str, Any],
    repeats: int | None = None,
    only: str = "",
    memory: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[list[Row]]:
    """Rows of a suite, one case at a time.

    Args:
        suite, options: as for :func:`~detrex_ext.benchmark.suites.cells`.
        machine: from :func:`~detrex_ext.benchmark.measure.machine`.
        repeats: of each cell; the median is taken.
        only: cases that contain this text.
        memory: whether to start a process for each cell to measure its peak.
        say: told what is going on.
    """
    chosen = [c for c in cells(suite, options) if only in c.case]
    for case, group in groupby(chosen, key=lambda c: c.case):
        members = list(group)
        say(f"{suite}: {case}: {len(members)} implementations")
        works = [c.build() for c in members]
        taken = medians(works, repeats or REPEATS[suite], options.device)
        counted = [work_of(w) if suite in ("step", "inference") else None for w in works]
        del works
        peaks = [peak_alone(spec_of(c, options)) if memory else None for c in members]
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
    limits = "gflop" in rows[0]
    head = ["implementation", "type", "median", "ratio", "peak MiB", "ratio"]
    head += ["GFLOP", "at GEMM rate", "GiB moved", "at bandwidth"] if limits else []
    lines = [f"**{rows[0]['suite']}: {rows[0]['case']}** (ratios to {rows[0]['ratio_to']})", "", _line(head)]
    lines.append("|".join(["", "---", "---", *["---:"] * (len(head) - 2), ""]))
    return "\n".join([*lines, *(_line(_cells(r, limits)) for r in rows)])


def _cells(r: Row, limits: bool) -> list[str]:
    peak = ["-", "-"] if r["peak_mib"] is None else [f"{r['peak_mib']:.0f}", f"{r['peak_ratio']:.2f}"]
    found = [r["impl"], r["dtype"], _time(r["median_s"]), f"{r['ratio']:.2f}", *peak]
    if limits:
        found += [f"{r['gflop']:.0f}", _time(r["gemm_s"]), f"{r['gib_moved']:.1f}", _time(r["bandwidth_s"])]
    return found


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g} ms"


def notes(rows: Sequence[Row], options: Options) -> list[str]:
    """What the rows of a case say together: shares, prices, agreement with detrex."""
    by = {(r["impl"], r["dtype"]): r for r in rows}
    suite, case = rows[0]["suite"], rows[0]["case"]
    ours, solver = by.get(("detrex_ext", "fp32")), by.get(("assignment solver alone", "fp32"))
    found = []
    if ours and solver:
        share = solver["median_s"] / ours["median_s"]
        found.append(f"{case}: the assignment solver is {share:.0%} of detrex_ext's time")
    if ours and suite == "step":
        found += _price(case, by, ours, options.strategies)
        found += [_beside(case, by, names) for names in options.strategies if (f"detrex+{names}", "fp32") in by]
    if suite == "inference" and ("detrex", "fp32") in by:
        found += [_agreement(r, options) for (impl, _), r in by.items() if impl == "detrex_ext"]
    return found


def _agreement(row: Row, options: Options) -> str:
    score, median, largest = models.agreement_with_detrex(row["host"], row["side"], options, row["dtype"])
    return (
        f"{row['case']}: with the same weights the 100 best detections of {row['dtype']} differ from detrex's by at "
        f"most {score:.2g} in score and {largest:.2g} px in a box, half of them by less than {median:.2g} px"
    )


def _price(case: str, by: Mapping[tuple[str, str], Row], bare: Row, strategies: Sequence[str]) -> list[str]:
    found = []
    for names in strategies:
        row = by.get((f"detrex_ext+{names}", "fp32"))
        if row is None:
            continue
        text = f"{case}: {names} takes {row['median_s'] / bare['median_s']:.2f}x of the bare time"
        more = models.count_sets(bare["host"], names.split("+")) - models.count_sets(bare["host"], ())
        if row["peak_mib"] is not None:
            text += f" and {row['peak_mib'] / bare['peak_mib']:.2f}x of its memory"
        if more > 0:
            text += f"; it adds {more} sets, {_time((row['median_s'] - bare['median_s']) / more)}"
            if row["peak_mib"] is not None:
                text += f" and {(row['peak_mib'] - bare['peak_mib']) / more:.1f} MiB"
            text += " for each"
        found.append(text)
    return found


def _beside(case: str, by: Mapping[tuple[str, str], Row], names: str) -> str:
    theirs, texts = by[(f"detrex+{names}", "fp32")], []
    for dtype in ("fp32", "bf16"):
        row = by[(f"detrex_ext+{names}", dtype)]
        text = f"in {dtype} {row['median_s'] / theirs['median_s']:.2f}x of the time"
        if row["peak_mib"] is not None:
            text += f", {row['peak_mib'] / theirs['peak_mib']:.2f}x of the memory"
        texts.append(text)
    return f"{case}: {names} beside detrex+{names} fp32: {'; '.join(texts)}"
