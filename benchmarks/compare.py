#!/usr/bin/env python
"""Trains configs bare and with overlays: at equal steps, and the bare ones again for as long as each overlay took.

    python benchmarks/compare.py --config-file configs/quickstart.py --overlay sqr --seeds 0,1,2 [key=value ...]
    python benchmarks/compare.py --config-file dab_detr_r50_50ep --config-file dino_r50_4scale_12ep --base tiny
    python benchmarks/compare.py --config-file configs/quickstart.py --overlay sqr --overlay "wide: sqr key=value" \
        --again "late: model.postprocess.last_stages=2" --stages model.decoder.num_layers=6

Every `--overlay "[name:] A,B key=value ..."` is a variant of its own, with its overlays and overrides; `--base` is laid
over every config first. `--again "name: key=value ..."` evaluates what was trained at equal steps under other settings,
`--stages` analyses the decoder stages too. Runs go `--jobs` at a time
with one thread each. Time is the processor time of a run's process, which hardly depends on what runs beside it; memory
is its peak resident size. A run that is finished in the output folder is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Run:
    """One training: which, and what came of it.

    Attributes:
        variant: name in the table.
        config: file or name of the config.
        overlay: overlays in order, comma-separated, and then overrides, all separated by blanks; "" = the bare model.
        seed: of the training.
        steps: optimiser steps; None = as many as the config says.
        ap, ap50, ap75: COCO figures of the last evaluation.
        curve: AP of each evaluation on the way, by step as text (as JSON keeps it).
        cpu_s, peak_mib: processor time and peak resident size of the process.
        stages: figures of the stage analysis, where it was made.
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
    stages: dict[str, float] | None = None


def folder_of(run: Run, output: Path) -> Path:
    """Where a run lives."""
    return output / f"{run.variant.replace(' ', '_')}_{run.seed}"


def start(command: Sequence[str], log: Path) -> Any:
    """Runs a process with one thread; what it used.

    Raises:
        SystemExit: it failed.
    """
    with log.open("w") as out:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\nfailed; see {log}")
    return used


def train(run: Run, output: Path, overrides: Sequence[str]) -> Run:
    """Runs a training in a process of its own, or reads what it left."""
    folder = folder_of(run, output)
    record = folder / "run.json"
    if record.is_file():
        return Run(**json.loads(record.read_text()))
    overlays, own = split(run.overlay)
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", run.config]
    command += ["--overlay", overlays] if overlays else []
    command += [*overrides, *own, f"train.output_dir={folder}", "train.overwrite=true", f"train.seed={run.seed}"]
    command += [f"train.max_iter={run.steps}"] if run.steps else []
    folder.mkdir(parents=True, exist_ok=True)
    used = start(command, folder / "stdout.txt")
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    # as detectron2 writes it: an evaluation on the way under the last step before it, the final one under their number
    seen = {row["iteration"]: row for row in rows if "bbox/AP" in row}
    last = seen[max(seen)]
    run.steps = max(seen)
    run.ap, run.ap50, run.ap75 = (last[f"bbox/{name}"] for name in ("AP", "AP50", "AP75"))
    run.curve = {str(step): row["bbox/AP"] for step, row in seen.items()}
    run.stages = {k.removeprefix("stages/"): v for k, v in last.items() if k.startswith("stages/")} or None
    run.cpu_s, run.peak_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    record.write_text(json.dumps(asdict(run), indent=2) + "\n")
    return run


def evaluate(run: Run, name: str, overrides: str, output: Path) -> Run:
    """The weights of a finished run under other settings of inference; its time is that of the evaluation."""
    folder = folder_of(run, output)
    log = folder / f"again_{name.replace(' ', '_')}.txt"
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(folder), "--eval-only"]
    command += [f"train.init_checkpoint={folder / 'model_final.pth'}", f"train.output_dir={folder}", *overrides.split()]
    used = start(command, log)
    figures = {}
    for names, values in re.findall(r"copypaste: (\w[^\n]*,[^\n]*)\n.*?copypaste: ([^\n]+)", log.read_text()):
        figures |= dict(zip(names.split(","), map(float, values.split(",")), strict=True))
    again = replace(run, variant=f"{run.variant}, {name}", curve=None, cpu_s=used.ru_utime + used.ru_stime)
    again.peak_mib, again.stages = used.ru_maxrss / 1024, None
    again.ap, again.ap50, again.ap75 = (figures[k] for k in ("AP", "AP50", "AP75"))
    return again


def split(text: str) -> tuple[str, list[str]]:
    """Overlays and overrides of a variant."""
    words = text.split()
    overlays = words[0] if words and "=" not in words[0] else ""
    return overlays, words[bool(overlays) :]


def named(text: str) -> tuple[str, str]:
    """(name, rest) of ``name: rest``; without a name the text is its own."""
    name, mark, rest = text.partition(": ")
    return (name, rest.strip()) if mark else (text, text)


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


def variants(configs: Sequence[str], base: str, overlays: Sequence[str]) -> list[tuple[str, str, str]]:
    """(name, config, overlays) of every variant; the bare one of a config comes before those laid over it."""
    found = []
    for config in configs:
        name = "bare" if len(configs) == 1 else Path(config).stem
        found.append((name, config, base))
        for text in overlays:
            title, rest = named(text)
            own, overrides = split(rest)
            title = f"+{title}" if len(configs) == 1 else f"{name} +{title}"
            found.append((title, config, " ".join([",".join(filter(None, [base, own])), *overrides]).strip()))
    return found


Variant = tuple[str, str, str]


def compare(
    made: list[Variant],
    base: str,
    seeds: Sequence[int],
    output: Path,
    jobs: int,
    more: Sequence[str],
    again: Sequence[str] = (),
    longer: bool = True,
) -> None:
    """All runs: every variant at equal steps, their weights again, the bare ones as long as each overlay took."""

    def all_of(work: Callable[..., Run], arguments: list[tuple]) -> list[Run]:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(lambda given: work(*given), arguments))

    started = time.time()
    runs = all_of(train, [(Run(*variant, seed, None), output, more) for seed in seeds for variant in made])
    others = all_of(evaluate, [(run, *named(text), output) for text in again for run in runs])
    wanted = []
    for name, config, overlay in made if longer else ():
        if overlay != base:
            bare = [r for r in runs if (r.config, r.overlay) == (config, base)]
            steps = as_long(bare, [r for r in runs if r.variant == name])
            title = f"{bare[0].variant}, as long as {name}"
            wanted += [(Run(title, config, base, seed, steps), output, more) for seed in seeds]
    others += all_of(train, wanted)
    order = [name for name, _, _ in made]
    runs = sorted(runs, key=lambda r: order.index(r.variant)) + others
    print("\n\n".join(filter(None, [table(runs), stage_table(runs)])))
    print(f"\n{len(runs)} runs, {jobs} at a time, {(time.time() - started) / 60:.0f} min")
    (output / "runs.json").write_text(json.dumps([asdict(r) for r in runs], indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", action="append", required=True, metavar="F", help="may be repeated")
    parser.add_argument("--base", default="", metavar="A,B", help="overlays laid over every config first")
    parser.add_argument("--overlay", action="append", default=[], metavar="[NAME:] A,B KEY=VALUE", help="a variant")
    parser.add_argument("--again", action="append", default=[], metavar="NAME: KEY=VALUE", help="another evaluation")
    parser.add_argument("--stages", action="store_true", help="stage-wise errors in every evaluation")
    parser.add_argument("--equal-steps", action="store_true", help="only those: no bare run as long as another took")
    parser.add_argument("--seeds", default="0,1,2", metavar="S,S")
    parser.add_argument("--output", default="output/compare", metavar="DIR", type=Path)
    parser.add_argument("--jobs", default=2, metavar="N", type=int, help="trainings at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    seeds = [int(s) for s in args.seeds.split(",")]
    made = variants(args.config_file, args.base, args.overlay)
    more = [*args.overrides, *(["dataloader.evaluator.stages=true"] if args.stages else [])]
    compare(made, args.base, seeds, args.output, args.jobs, more, args.again, not args.equal_steps)


if __name__ == "__main__":
    main()
