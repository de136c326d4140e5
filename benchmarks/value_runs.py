"""Trainings and evaluations of benchmarks/value.py, in processes of their own, and the book of what is finished."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock

from compare import ROOT, commit, figures
from value_data import Data
from value_tables import Trained, read
from variants import split

from detrex_ext.checkpoint import RunFolder

EVALUATIONS = 10
# of the time that is given, for evaluations on the reported split alone
KEPT = 0.1


class Book:
    """What is finished, in a file to which each result is added at once; a later line of a run replaces the earlier."""

    def __init__(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        self.file, self.lock, self.runs = file, Lock(), read(text)
        if text and not text.endswith("\n"):
            with file.open("a", encoding="utf-8") as out:
                out.write("\n")

    def known(self, run: Trained) -> bool:
        """Whether a run is finished.

        Raises:
            SystemExit: there is one of this name under other overlays.
        """
        then = self.runs.get(run.key)
        if then is not None and then.overlay != run.overlay:
            raise SystemExit(f"{self.file}: {run.variant} is '{then.overlay}' there, not '{run.overlay}': give it "
                             "another name, or choose another --output")  # fmt: skip
        return then is not None

    def add(self, run: Trained) -> None:
        """Keeps a result."""
        with self.lock:
            self.runs[run.key] = run
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(asdict(run)) + "\n")

    def of(self, data: str) -> list[Trained]:
        """Results of one data set, variants in the order of their first line."""
        return [run for run in self.runs.values() if run.data == data]


class Bench:
    """Trains and evaluates what is not there yet, several at a time.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.book = args, Book(args.output / "results.jsonl")
        self.end = time.monotonic() + 60 * args.minutes if args.minutes else None
        self.kept = 60 * KEPT * args.minutes if args.minutes else 0.0
        self.failed: dict[tuple, str] = {}

    def folder(self, run: Trained) -> Path:
        """Of a training."""
        return (self.args.output / run.data / f"{run.variant}_{run.steps}_{run.seed}".replace(" ", "_")).resolve()

    def call(self, command: Sequence[str], log: Path, kept: float = 0.0, needs: float = 0.0) -> None:
        """Runs a process with one thread.

        Args:
            command: and its arguments.
            log: what it prints.
            kept: seconds before the end that it must not use.
            needs: seconds that it will take at least; it is not begun when they are not there.

        Raises:
            RuntimeError: it failed, or the time is over.
        """
        left = None if self.end is None else self.end - kept - time.monotonic()
        if left is not None and left <= needs:
            raise RuntimeError("no time left for it")
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        with log.open("w") as out:
            try:
                done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, timeout=left, check=False)
            except subprocess.TimeoutExpired:
                raise RuntimeError("the time was over before it was done") from None
        if done.returncode:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["nothing"]
            raise RuntimeError(f"ended with {done.returncode}, see {log}: {said[-1][:160]}")

    def train(self, data: Data, run: Trained) -> None:
        """One training; evaluated on the selection split on the way, whose best checkpoint stays."""
        folder = self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        overlays, own = split(run.overlay)
        period = max(run.steps // EVALUATIONS, 1)
        clock = folder / "steps.json"
        command = [sys.executable, str(ROOT / "benchmarks" / "timed_train.py"), str(clock)]
        command += ["--config-file", self.args.config_file or str(ROOT / data.config)]
        command += ["--overlay", overlays] if overlays else []
        command += [*data.overrides, *data.paths(data.select), *self.args.overrides, *own]
        command += [f"train.device={self.args.device}", f"train.max_iter={run.steps}", f"train.seed={run.seed}",
                    f"train.eval_period={period}", f"train.checkpointer.period={run.steps}",
                    "train.early_stop.patience=0", "train.best_checkpoint.restore=true",
                    f"train.output_dir={folder}", "train.overwrite=true"]  # fmt: skip
        made_by = commit()
        known = [r for r in self.book.of(run.data) if r.variant in ("bare", run.variant)]
        needs = run.steps * max((r.seconds for r in known), default=0.0)
        self.call(command, folder / "stdout.txt", self.kept, needs)
        seen = [row["bbox/AP"] for row in RunFolder(folder).read_metrics() if "bbox/AP" in row]
        seconds = json.loads(clock.read_text(encoding="utf-8"))["seconds"]
        self.book.add(replace(run, select=max(seen), seconds=seconds, commit=made_by))

    def report(self, data: Data, run: Trained) -> None:
        """The kept checkpoint of a training on the reported split."""
        folder = self.folder(run)
        log = folder / "report.txt"
        command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(folder), "--eval-only"]
        command += [f"dataset.val_json={data.report}", f"train.init_checkpoint={folder}"]
        self.call(command, log)
        self.book.add(replace(run, report=figures(log.read_text())["AP"]))

    def all_of(self, data: Data, work: Callable[[Data, Trained], None], runs: Iterable[Trained]) -> None:
        """Does it for all runs; one that fails is told, and the others go on."""

        def one(run: Trained) -> None:
            try:
                work(data, run)
            except RuntimeError as error:
                self.failed[run.key] = str(error)
                print(*run.key, error, file=sys.stderr, flush=True)

        with ThreadPoolExecutor(self.args.jobs) as pool:
            list(pool.map(one, runs))

    def trained(self, data: Data, wanted: Iterable[tuple[str, str, int]]) -> list[Trained]:
        """Runs of (variant, overlay, steps) for every seed, those that are not there made; seed by seed."""
        asked = [Trained(data.name, name, seed, steps, overlay)
                 for seed in self.args.seeds for name, overlay, steps in wanted]  # fmt: skip
        self.all_of(data, self.train, [run for run in asked if not self.book.known(run)])
        return [self.book.runs[run.key] for run in asked if run.key in self.book.runs]
