"""What a rank sees of who started it and of the other ranks, so that none waits for one that is gone.

A rank that is killed or stopped says nothing, and the others wait in a collective for up to half an hour. So a thread
of each looks at the states that the system keeps of processes (``/proc``; elsewhere only at who started it). It asks
nothing of the process that is looked at: a step, an evaluation or a compilation may take as long as it likes, and a
debugger, whose stop the system tells from another, ends nothing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

logger = logging.getLogger(__name__)
LIMIT = 20.0
"""Seconds that a rank may be stopped."""
GRACE = 8.0
"""Seconds in which a rank may end by itself when the job has failed."""
_PERIOD = 0.5
_START = 19  # of a process, in the fields of /proc/PID/stat from its state on


@dataclass(frozen=True)
class Process:
    """A process as others find it; numbers are given out again, so its start belongs to its name.

    Attributes:
        machine: the running system and its space of numbers; "" = not known.
        pid: number.
        start: time, in the system's ticks.
    """

    machine: str
    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """A process of this machine."""
        fields = _fields(pid)
        return cls(_machine() if fields else "", pid, fields[_START] if fields else "")

    def state(self) -> str:
        """"running", "stopped", "gone", or "" where that cannot be known here."""
        if not self.machine or self.machine != _machine():
            return ""
        fields = _fields(self.pid)
        if not fields or fields[_START] != self.start or fields[0] in "ZX":
            return "gone"
        return "stopped" if fields[0] == "T" else "running"

    def kill(self) -> None:
        """End it, if it is the one that is meant."""
        if self.state() in ("running", "stopped"):
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def _fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


@functools.cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


class Looker:
    """Tells of ranks that are stopped for too long, or gone.

    Args:
        ranks: the processes of other ranks.
        limit: seconds that one may be stopped; 0 = as long as it is.
    """

    def __init__(self, ranks: Mapping[int, Process], limit: float) -> None:
        self.ranks, self.limit = dict(ranks), limit
        self._since: dict[tuple[int, str], float] = {}
        self._last = time.monotonic()

    def look(self) -> tuple[Process, str] | None:
        """One that is lost, and why."""
        now = time.monotonic()
        if now - self._last > 10 * _PERIOD:  # this process was stopped itself, with the others as like as not
            self._since.clear()
        self._last = now
        states = {(rank, process.state()): process for rank, process in self.ranks.items()}
        self._since = {key: self._since.get(key, now) for key in states}
        for (rank, state), process in states.items():
            for_s = now - self._since[rank, state]
            if state == "stopped" and 0 < self.limit <= for_s:
                return process, f"rank {rank} (process {process.pid}) is stopped since {for_s:.0f} s"
            if state == "gone" and for_s >= GRACE:
                return process, f"rank {rank} (process {process.pid}) is gone"
        return None

    def gone(self) -> str:
        """The first that is gone now, in words; "" where all are there."""
        ranks = (rank for rank, process in self.ranks.items() if process.state() == "gone")
        return next((f"rank {rank} (process {self.ranks[rank].pid}) was killed" for rank in ranks), "")


class Watch:
    """Threads that end this process where its job cannot go on.

    Where who started it is gone, it is asked to stop as by SIGTERM, and ended when it did not.

    Args:
        started: whether who started it is still there.
        lost: called with the reason, before this process ends.
        limit: seconds that a rank may be stopped, 0 = as long as it is.

    Attributes:
        looker: at the other ranks of this machine.
    """

    def __init__(self, started: Callable[[], bool], lost: Callable[[str], None], limit: float = LIMIT) -> None:
        self.looker = Looker({}, limit)
        self._started, self._lost = started, lost
        self._done = threading.Event()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def meet(self, ranks: Mapping[int, Process], failed: Callable[[], bool]) -> None:
        """Look at the other ranks too, and whether one of them has reported a failure."""
        self.looker.ranks = dict(ranks)
        threading.Thread(target=self._listen, args=(failed,), name="watch_reports", daemon=True).start()

    def stop(self) -> None:
        """This rank ends by itself."""
        self._done.set()

    def _run(self) -> None:
        while not self._done.wait(_PERIOD):
            if not self._started():
                self._orphaned()
            elif (found := self.looker.look()) and not self._done.is_set():
                process, reason = found
                self._lost(reason)
                process.kill()
                _end()

    def _orphaned(self) -> None:
        logger.warning("the process that started this one is gone")
        with contextlib.suppress(OSError):
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._done.wait(2 * GRACE):
            _end()

    def _listen(self, failed: Callable[[], bool]) -> None:
        """May wait on the store, so it is a thread of its own."""
        try:
            while not failed():
                if self._done.wait(2 * _PERIOD) or not self._started():
                    return
        except Exception:  # the store is gone, and its process was a rank or started one
            return
        if not self._done.wait(GRACE):
            _end()


def _end() -> NoReturn:
    """Ends this process, whatever its other threads wait for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(1)
