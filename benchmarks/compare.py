#!/usr/bin/env python
"""Trains configs bare and with overlays: at equal steps, and the bare ones again for as long as each overlay took.

    python benchmarks/compare.py --config-file configs/quickstart.py --overlay sqr --seeds 0,1,2 [key=value ...]
    python benchmarks/compare.py --config-file dab_detr_r50_50ep --config-file dino_r50_4scale_12ep --base tiny
    python benchmarks/compare.py --config-file configs/quickstart.py --overlay sqr --overlay "wide: sqr key=value" \
        --again "looped: model.decoder.eval_order=[2,2,2]" --stages model.decoder.num_layers=6

Every `--overlay "[name:] A,B key=value ..."` is a variant of its own, with its overlays and overrides; `--base` is laid
over every config first. `--again "name: key=value ..."` evaluates what was trained at equal steps under other settings,
`--stages` analyzes the decoder stages too, `--queries` counts the queries near each object, `--curve` tells the AP of
every evaluation. `--grid 100` rounds the steps of a longer bare run up to hundreds, so that overlays of about one price
share it. Runs go `--jobs` at a time with one thread each. Time is the processor time of a run's process, which hardly
depends on what runs beside it; memory is its peak resident size. A run that is finished in the output folder is not
made again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tables import Run, curve_table, query_table, stage_table, table
from variants import Variant, longer, named, split, variants

from detrex_ext.checkpoint import RunFolder

ROOT = Path(__file__).resolve().parents[1]


def folder_of(run: Run, output: Path) -> Path:
    """Where a run lives."""
    return output / f"{run.variant.replace(' ', '_')}_{run.seed}"


def commit() -> str:
    """The commit of this checkout, and whether its code was changed; "" where git knows none."""
    git = ["git", "-C", str(ROOT)]
    name, changes = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no", ":!*.md"])
    )
    return f"{name}, changed" if changes else name


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
    folder.mkdir(parents=True, exist_ok=True)
    run.commit = commit()
    used = start(command, folder / "stdout.txt")
    rows = RunFolder(folder).read_metrics()
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


def figures(log: str) -> dict[str, float]:
    """Figures of an evaluation by name, from what it logs."""
    found = {}
    for names, values in re.findall(r"copypaste: (\w[^\n]*,[^\n]*)\n.*?copypaste: ([^\n]+)", log):
        found |= dict(zip(names.split(","), map(float, values.split(",")), strict=True))
    return found


def evaluate(run: Run, name: str, overrides: str, output: Path) -> Run:
    """The weights of a finished run under other settings of inference; its time is that of the evaluation."""
    folder = folder_of(run, output)
    log = folder / f"again_{name.replace(' ', '_')}.txt"
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(folder), "--eval-only"]
    command += overrides.split()
    used = start(command, log)
    found = figures(log.read_text())
    again = replace(run, variant=f"{run.variant}, {name}", curve=None, cpu_s=used.ru_utime + used.ru_stime)
    again.peak_mib, again.stages = used.ru_maxrss / 1024, None
    again.ap, again.ap50, again.ap75 = (found[k] for k in ("AP", "AP50", "AP75"))
    return again


def count(run: Run, output: Path) -> Run:
    """A run with its queries near each object, of its last stage and final weights."""
    if run.queries is None:
        folder = folder_of(run, output)
        file = folder / "queries.json"
        command = [sys.executable, str(ROOT / "tools" / "analyze.py"), "queries-per-object"]
        command += [str(folder), "--output", str(folder / "queries"), "--json", str(file)]
        start([*command, f"train.init_checkpoint={folder}"], folder / "queries.txt")
        report = json.loads(file.read_text())
        row = report["checkpoints"][0]
        names = [f"> {t:g}" for t in report["thresholds"]] + ["best"]
        run.queries = {
            stream: dict(zip(names, [*row["above"][stream][-1], row["best"][stream][-1]], strict=True))
            for stream in report["streams"]
        }
        (folder / "run.json").write_text(json.dumps(asdict(run), indent=2) + "\n")
    return run


def compare(made: list[Variant], args: argparse.Namespace) -> None:
    """All runs: every variant at equal steps, their weights again, the bare ones as long as each overlay took."""
    seeds = [int(s) for s in args.seeds.split(",")]
    more = [*args.overrides, *(["dataloader.evaluator.stages=true"] if args.stages else [])]

    def all_of(work: Callable[..., Run], arguments: list[tuple]) -> list[Run]:
        with ThreadPoolExecutor(args.jobs) as pool:
            return list(pool.map(lambda given: work(*given), arguments))

    def trained(variants: list[Variant]) -> list[Run]:
        runs = all_of(train, [(Run(*variant, seed), args.output, more) for seed in seeds for variant in variants])
        runs = all_of(count, [(run, args.output) for run in runs]) if args.queries else runs
        order = [name for name, _, _ in variants]
        return sorted(runs, key=lambda r: order.index(r.variant))

    lines = []
    runs = trained(made)
    others = all_of(evaluate, [(run, *named(text), args.output) for text in args.again for run in runs])
    if not args.equal_steps:
        variants, lines = longer(made, args.base, runs, args.grid)
        others += trained(variants)
    runs += others
    curves = curve_table(runs) if args.curve else ""
    print("\n\n".join(filter(None, [table(runs), "\n".join(lines), curves, stage_table(runs), query_table(runs)])))
    made_by = " and ".join(sorted({run.commit for run in runs if run.commit}))
    print(f"\n{len(runs)} runs, {args.jobs} at a time; commit {made_by or 'not known'}")
    (args.output / "runs.json").write_text(json.dumps([asdict(r) for r in runs], indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", action="append", required=True, metavar="F", help="may be repeated")
    parser.add_argument("--base", default="", metavar="A,B", help="overlays laid over every config first")
    parser.add_argument("--overlay", action="append", default=[], metavar="[NAME:] A,B KEY=VALUE", help="a variant")
    parser.add_argument("--again", action="append", default=[], metavar="NAME: KEY=VALUE", help="another evaluation")
    parser.add_argument("--stages", action="store_true", help="stage-wise errors in every evaluation")
    parser.add_argument("--curve", action="store_true", help="AP of every evaluation on the way")
    parser.add_argument("--queries", action="store_true", help="queries near each object, of the final weights")
    parser.add_argument("--grid", default=1, metavar="N", type=int, help="steps of a longer bare run: a multiple of N")
    parser.add_argument("--equal-steps", action="store_true", help="only those: no bare run as long as another took")
    parser.add_argument("--seeds", default="0,1,2", metavar="S,S")
    parser.add_argument("--output", default="output/compare", metavar="DIR", type=Path)
    parser.add_argument("--jobs", default=2, metavar="N", type=int, help="trainings at a time")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    compare(variants(args.config_file, args.base, args.overlay), args)


if __name__ == "__main__":
    main()
