"""A worker as the session sees it: events that it has told, its end, and what it said last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_TAIL = 600
_PATIENCE = 5.0  # seconds that a process that was ended may take to go


class Worker:
    """A process of ``detrex_ext.gpu_check.worker`` at its task.

    Args:
        task: what it reads, see there.
        events: the file that it tells to; earlier workers did too.
        log: gets all that it prints.
    """

    def __init__(self, task: dict[str, Any], events: Path, log: Path) -> None:
        self._events, self._log = events, log
        self._read = events.stat().st_size if events.exists() else 0
        self._said = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "detrex_ext.gpu_check.worker"],
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=os.name == "posix",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )  # fmt: skip
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it ended at once; its exit code says so
            pass

    def new(self) -> list[dict[str, Any]]:
        """Events since the last call; a line that is not whole is left for the next."""
        if not self._events.exists():
            return []
        with self._events.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line.strip()]

    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Ends it and all that it started; waits a little, no longer."""
        if os.name == "posix":
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        else:
            self._process.kill()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # in the driver, which does not let it go; the next may still work
            pass
        try:
            self._process.stdin.close()
        except OSError:
            pass

    def last_words(self) -> str:
        """The end of what it printed."""
        with self._log.open("rb") as file:
            file.seek(max(self._said, self._log.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-3:])
