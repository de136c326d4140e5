#!/usr/bin/env python
"""Trains configs bare and with overlays: at equal steps, and the bare ones again for as long as each overlay took.

    python benchmarks/compare.py --config-file configs/quickstart.py --overlay sqr --seeds 0,1,2 [key=value ...]
    python benchmarks/compare.py --config-file dab_detr_r50_50ep --config-file dino_r50_4scale_12ep --base tiny

Every `--overlay A,B` is a variant of its own; `--base` is laid over every config first. Runs go `--jobs` at a time
with one thread each. Time is the processor time of a run's process, which hardly depends on what runs beside it; memory
is its peak resident size. A run that is finished in the output folder is not made again.
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
        config: file or name of the config.
        overlay: overlays in order, comma-separated; "" = the bare model.
        seed: of the training.
        steps: optimiser steps; None = as many as the config says.
        ap, ap50, ap75: COCO figures of the last evaluation.
        curve: AP of each evaluation on the way, by step as text (as JSON keeps it).
        cpu_s, peak_mib: processor time and peak resident size of the process.
    """

    variant: str
    config: str
    overlay: str
    seed: int
    steps: int | None
    ap: float = 0.0
    ap50: float = 0.0
    ap75: float = 0.0
    curve: dict[str, float] | None = None
    cpu_s: float = 0.0
    peak_mib: float = 0.0


def train(run: Run, output: Path, overrides: Sequence[str]) -> Run:
    """Runs a training in a process of its own, or reads what it left."""
    folder = output / f"{run.variant.replace(' ', '_')}_{run.seed}"
    record = folder / "run.json"
    if record.is_file():
        return Run(**json.loads(record.read_text()))
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", run.config]
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
    # as detectron2 writes it: an evaluation on the way under the last step before it, the final one under their number
    seen = {row["iteration"]: row for row in rows if "bbox/AP" in row}
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


def variants(configs: Sequence[str], base: str, overlays: Sequence[str]) -> list[tuple[str, str, str]]:
    """(name, config, overlays) of every variant; the bare one of a config comes before those laid over it."""
    found = []
    for config in configs:
        name = "bare" if len(configs) == 1 else Path(config).stem
        found.append((name, config, base))
        for overlay in overlays:
            title = f"+{overlay}" if len(configs) == 1 else f"{name} +{overlay}"
            found.append((title, config, ",".join(filter(None, [base, overlay]))))
    return found


Variant = tuple[str, str, str]


def compare(made: list[Variant], base: str, seeds: Sequence[int], output: Path, jobs: int, more: Sequence[str]) -> None:
    """All runs: every variant at equal steps, then the bare ones as long as each overlay took."""

    def all_of(runs: list[Run]) -> list[Run]:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(lambda r: train(r, output, more), runs))

    started = time.time()
    runs = all_of([Run(*variant, seed, None) for seed in seeds for variant in made])
    longer = []
    for name, config, overlay in made:
        if overlay != base:
            bare = [r for r in runs if (r.config, r.overlay) == (config, base)]
            steps = as_long(bare, [r for r in runs if r.variant == name])
            longer += [Run(f"{bare[0].variant}, as long as {name}", config, base, seed, steps) for seed in seeds]
    runs += all_of(longer)
    order = [name for name, _, _ in made]
    print(table(sorted(runs, key=lambda r: order.index(r.variant) if r.variant in order else len(order))))
    print(f"\n{len(runs)} runs, {jobs} at a time, {(time.time() - started) / 60:.0f} min")
    (output / "runs.json").write_text(json.dumps([asdict(r) for r in runs], indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", action="append", required=True, metavar="F", help="may be repeated")
    parser.add_argument("--base", default="", metavar="A,B", help="overlays laid over every config first")
    parser.add_argument("--overlay", action="append", default=[], metavar="A,B", help="a variant; may be repeated")
    parser.add_argument("--seeds", default="0,1,2", metavar="S,S")
    parser.add_argument("--output", default="output/compare", metavar="DIR", type=Path)
    parser.add_argument("--jobs", default=2, metavar="N", type=int, help="trainings at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    seeds = [int(s) for s in args.seeds.split(",")]
    made = variants(args.config_file, args.base, args.overlay)
    compare(made, args.base, seeds, args.output, args.jobs, args.overrides)


if __name__ == "__main__":
    main()
