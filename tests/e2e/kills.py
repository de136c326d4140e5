"""Trainings that are killed at random times and resumed until they end; each must equal one that was left alone.

    PYTHONPATH=.:tests python tests/e2e/kills.py --kills 200 --workers 2
    PYTHONPATH=.:tests python tests/e2e/kills.py --kills 40 --processes 2
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from jobs import job
from training import assert_same_run, in_process, overrides, start_process, train

from detrex_ext.data import shapes


class One:
    """A training in a process of its own."""

    def __init__(self, data: Path, options: tuple[str, ...]) -> None:
        self.data, self.options = data, options

    def run(self, out: Path) -> float:
        """Seconds of one that is left alone."""
        began = time.monotonic()
        code = in_process(train, self.data, out, self.options, True)
        assert code == 0, f"exit code {code}"
        return time.monotonic() - began

    def killed(self, out: Path, seconds: float, rng: random.Random) -> bool:
        """Whether it was killed after so long, and had not ended before."""
        process = start_process(train, self.data, out, self.options, True)
        try:
            process.join(seconds)
            assert process.exitcode in (None, 0), f"exit code {process.exitcode}"
            return process.exitcode is None
        finally:
            process.kill()
            process.join()


class Two(One):
    """One of two processes, started by ``launch``; one of the three is killed, and none may be left."""

    def argv(self, out: Path) -> list[str]:
        args = ["-m", "detrex_ext", "train", "--config-file", "small", "--num-gpus", "2", "--resume"]
        return [*args, *overrides(self.data, out), *self.options]

    def run(self, out: Path) -> float:
        began = time.monotonic()
        with job(self.argv(out), out.parent) as running:
            assert running.end(600) and running.process.returncode == 0, running.text()
        return time.monotonic() - began

    def killed(self, out: Path, seconds: float, rng: random.Random) -> bool:
        with job(self.argv(out), out.parent) as running:
            if running.end(seconds):
                assert running.process.returncode == 0, running.text()
                return False
            # the resource tracker of multiprocessing is none of the three, and the job goes on without it
            those = [pid for pid in running.left() if b"resource_tracker" not in _command(pid)]
            for pid in rng.sample(those, 1):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert running.end(30), f"{running.left()} are left\n{running.text()}"
            return running.process.returncode != 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # gone by now
        return b""


def kill_and_resume(training: One, root: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kills so many times, beginning anew whenever a training has ended.

    Returns:
        How often it was killed, and how many trainings ended; these were all equal to one that was left alone.
    """
    whole, out, rng = root / "whole", root / "killed", random.Random(seed)
    length = training.run(whole)
    killed = ended = 0
    while killed < kills or out.exists():
        began = time.monotonic()
        if killed == kills:
            training.run(out)
        elif training.killed(out, rng.uniform(0.05, 0.95) * length, rng):
            killed += 1
            continue
        else:  # the first may have been slower, and then none would be killed
            length = min(length, time.monotonic() - began)
        assert_same_run(whole, out)
        assert not list(out.glob("set_aside*")) or _known(out), sorted(p.name for p in out.iterdir())
        ended += 1
        shutil.rmtree(out)
    return killed, ended


def _known(out: Path) -> bool:
    """What was set aside is of before a first checkpoint, or of a kill between a checkpoint and its tag."""
    return all(path.name == "metrics.json" or path.suffix == ".pth" for path in out.glob("set_aside*/*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        shapes.write(data, 12, 4, 48, 0)
        options = (f"dataloader.train.num_workers={args.workers}", "train.max_iter=20")
        training = (One if args.processes == 1 else Two)(data, options)
        began = time.monotonic()
        killed, ended = kill_and_resume(training, Path(folder), args.kills, args.seed)
        print(
            f"{killed} kills, {args.processes} processes, {args.workers} workers: {ended} trainings ended, each equal "
            f"to the bit to one that was left alone ({time.monotonic() - began:.0f} s)"
        )


if __name__ == "__main__":
    main()
