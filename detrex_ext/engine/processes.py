"""The processes of a job on one machine: started, signals passed on, and none left when one has failed."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from torch.multiprocessing import ProcessExitedException

from .failures import Failure, Reports, reason
from .signals import SignalHook
from .watch import GRACE, Looker, Process


def run_processes(count: int, target: Callable[..., Any], args: Sequence[Any], limit: float, first: int = 0) -> None:
    """Calls ``target(rank of the machine, reports, *args)`` in so many new processes, until all have ended.

    SIGTERM, SIGINT and SIGUSR1 are passed on to them. Where one fails the others are ended after a short while.

    Args:
        count: of processes.
        target: exits with another code than 0 where it fails.
        args: picklable.
        limit: seconds that one may be stopped, 0 = as long as it is.
        first: number of the machine's first rank in the job.

    Raises:
        Exception: the reason, see :func:`~detrex_ext.engine.failures.reason`.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        reports = Reports(folder)
        processes = [context.Process(target=target, args=(rank, reports, *args)) for rank in range(count)]
        try:
            with _signals_passed_on(processes) as signals:
                for process in processes:
                    process.start()
                    if signals:  # not all are there to note it
                        raise _stopped(signals[0], first, process)
                ended = _wait(processes, reports, limit, first)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
        exits = {rank: (p.pid, p.exitcode) for rank, p in enumerate(processes) if p not in ended}
        error = reason(reports.read(), exits, first)
    by_them = {0, *(-number for number in signals), *(128 + number for number in signals)}
    if signals and error and all(code in by_them for _, code in exits.values()):  # not all may have noted it in time
        error = _stopped(signals[0], first, processes[0])
    if error is not None:
        raise error


def _wait(processes: list[BaseProcess], reports: Reports, limit: float, first: int) -> list[BaseProcess]:
    """Until all have ended; those that had to be ended after a failure."""
    known = [Process.of(process.pid) for process in processes]
    looker, deadline = Looker({}, limit), None
    while alive := [process for process in processes if process.is_alive()]:
        multiprocessing.connection.wait([process.sentinel for process in alive], timeout=1)
        looker.ranks = {first + i: known[i] for i, process in enumerate(processes) if process in alive}
        found = looker.look()
        if found and found[0].state() == "stopped":
            reports.write(known.index(found[0]), Failure("lost", found[1], time.time()))
            return _killed(alive)
        if deadline is None and any(process.exitcode for process in processes):
            deadline = time.monotonic() + 2 * GRACE
        if deadline is not None and time.monotonic() > deadline:
            return _killed(alive)
    return []


def _stopped(number: int, rank: int, process: BaseProcess) -> ProcessExitedException:
    return ProcessExitedException(f"stopped by signal {number}", rank, process.pid, 128 + number)


def _killed(processes: list[BaseProcess]) -> list[BaseProcess]:
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.kill()
    return left


@contextlib.contextmanager
def _signals_passed_on(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Gives those that came. Python takes signals in the main thread only; elsewhere they are as before."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def pass_on(number: int, frame: Any) -> None:
        came.append(number)
        for process in processes:
            if process.pid is not None:
                with contextlib.suppress(OSError):
                    os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SignalHook.SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
