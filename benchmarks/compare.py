#!/usr/bin/env python
"""Trains a config bare and with overlays: at equal steps, and the bare one again for as long as each overlay took.

    python benchmarks/compare.py --config-file configs/quickstart.py --overlay sqr --seeds 0,1,2 [key=value ...]

Every `--overlay A,B` is a variant of its own. Runs go `--jobs` at a time with one thread each. Time is the processor
time of a run's process, which hardly depends on what runs beside it; memory is its peak resident size. A finished run
is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Run:
    """One training: which, and what came of it.

    Attributes:
        variant: name in the table.
        overlay: overlays in order, comma-separated; "" = the bare model.
        seed: of the training.
        steps: optimiser steps; None = as many as the config says.
        ap, ap50, ap75: COCO figures of the last evaluation.
        curve: AP of each evaluation on the way, by step as text (as JSON keeps it).
        cpu_s, peak_mib: processor time and peak resident size of the process.
    """

    variant: str
    overlay: str
    seed: int
    steps: int | None
    ap: float = 0.0
    ap50: float = 0.0
    ap75: float = 0.0
    curve: dict[str, float] | None = None
    cpu_s: float = 0.0
    peak_mib: float = 0.0


def train(run: Run, config: str, output: Path, overrides: Sequence[str]) -> Run:
    """Runs a training in a process of its own, or reads what it left."""
    folder = output / f"{run.variant.replace(' ', '_')}_{run.seed}"
    record = folder / "run.json"
    if record.is_file():
        return Run(**json.loads(record.read_text()))
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", config]
    command += ["--overlay", run.overlay] if run.overlay else []
    command += [*overrides, f"train.output_dir={folder}", "train.overwrite=true", f"train.seed={run.seed}"]
    command += [f"train.max_iter={run.steps}"] if run.steps else []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stdout.txt").open("w") as out:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\nfailed; see {folder / 'stdout.txt'}")
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    seen = {row["iteration"] + 1: row for row in rows if "bbox/AP" in row}
    last = seen[max(seen)]
    run.steps = max(seen)
    run.ap, run.ap50, run.ap75 = (last[f"bbox/{name}"] for name in ("AP", "AP50", "AP75"))
    run.curve = {str(step): row["bbox/AP"] for step, row in seen.items()}
    run.cpu_s, run.peak_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    record.write_text(json.dumps(asdict(run), indent=2) + "\n")
    return run


def as_long(bare: Iterable[Run], other: Iterable[Run]) -> int:
    """Steps the bare model makes in the processor time of another, from the medians over seeds."""
    bare, other = list(bare), list(other)
    ratio = statistics.median(r.cpu_s for r in other) / statistics.median(r.cpu_s for r in bare)
    return round(bare[0].steps * ratio)


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


def compare(config: str, overlays: Sequence[str], seeds: Sequence[int], output: Path, jobs: int, more: list[str]):
    """All runs: bare and overlays at equal steps, then the bare one as long as each overlay."""

    def all_of(runs: list[Run]) -> list[Run]:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(lambda r: train(r, config, output, more), runs))

    started = time.time()
    variants = {"bare": "", **{f"+{o}": o for o in overlays}}
    first = all_of([Run(name, overlay, seed, None) for seed in seeds for name, overlay in variants.items()])
    of = {name: [r for r in first if r.variant == name] for name in variants}
    longer = {f"bare, as long as +{o}": as_long(of["bare"], of[f"+{o}"]) for o in overlays}
    second = all_of([Run(name, "", seed, steps) for seed in seeds for name, steps in longer.items()])
    runs = [r for group in of.values() for r in group] + sorted(second, key=lambda r: r.variant)
    print(table(runs))
    print(f"\n{len(runs)} runs, {jobs} at a time, {(time.time() - started) / 60:.0f} min")
    (output / "runs.json").write_text(json.dumps([asdict(r) for r in runs], indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", default="configs/quickstart.py", metavar="F")
    parser.add_argument("--overlay", action="append", required=True, metavar="A,B", help="a variant; may be repeated")
    parser.add_argument("--seeds", default="0,1,2", metavar="S,S")
    parser.add_argument("--output", default="output/compare", metavar="DIR", type=Path)
    parser.add_argument("--jobs", default=2, metavar="N", type=int, help="trainings at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    seeds = [int(s) for s in args.seeds.split(",")]
    compare(args.config_file, args.overlay, seeds, args.output, args.jobs, args.overrides)


if __name__ == "__main__":
    main()
