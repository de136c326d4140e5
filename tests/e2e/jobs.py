"""Commands of several processes, of which none outlives a test: they are found by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MARK = "DETREX_EXT_TEST_JOB"


class Job:
    """A command and all that it started.

    Args:
        argv: of Python.
        folder: where its output goes, as ``console.txt``.
        env: added to the environment.
    """

    def __init__(self, argv: Sequence[str], folder: Path, **env: str) -> None:
        self.mark, self.console = uuid.uuid4().hex, folder / "console.txt"
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "e2e")))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, _MARK: self.mark, **env}
        with open(self.console, "wb") as out:
            command = [sys.executable, "-W", "ignore", *argv]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )

    def left(self) -> list[int]:
        """Processes of the job that are running or stopped."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            return state != "Z" and f"{_MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def end(self, seconds: float) -> bool:
        """Waits until nothing of it is left; whether that was so in time."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None or self.left():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def text(self) -> str:
        """What it said."""
        return self.console.read_text(errors="replace")


@contextlib.contextmanager
def job(argv: Sequence[str], folder: Path, **env: str) -> Iterator[Job]:
    """A job that is gone afterwards, whatever happens."""
    started = Job(argv, folder, **env)
    try:
        yield started
    finally:
        for pid in started.left():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        started.process.kill()
        started.process.wait()


def torchrun(*argv: str) -> list[str]:
    """Arguments of Python that run a script in two processes."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *argv]
