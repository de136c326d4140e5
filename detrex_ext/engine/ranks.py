"""One rank of a job: it joins the others, runs, and says once for all of them why it cannot go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from detrex_ext.errors import JobFailed
from detrex_ext.runtime import comm, machine

from .failures import Failure, Reports
from .watch import Process, Watch

_FAILED = "detrex_ext/failed"  # key of the store: how many ranks have reported


@dataclass(frozen=True)
class Job:
    """What the processes of a machine are told."""

    main: Callable[..., Any]
    args: tuple
    local_size: int
    machines: int
    machine_rank: int
    dist_url: str
    timeout: timedelta
    device: str
    watchdog: float


def run_rank(local_rank: int, reports: Reports, job: Job) -> None:
    """One rank of a job that `launch` started."""
    rank, world = job.machine_rank * job.local_size + local_rank, job.machines * job.local_size
    started = multiprocessing.parent_process().is_alive

    def lost(text: str) -> None:
        reports.write(local_rank, Failure("lost", text, time.time()))
        _is_first()

    watch = Watch(started, lost, job.watchdog)
    with reports.exits(local_rank):
        if job.device == "cpu":
            machine.fit_threads(job.local_size)
        url = urlsplit(job.dist_url)
        try:
            if url.scheme == "tcp":
                where = {"store": dist.TCPStore(url.hostname, url.port, is_master=False, timeout=job.timeout)}
            else:
                where = {"init_method": job.dist_url}
            join_group(job.device, local_rank, job.local_size, job.timeout, world_size=world, rank=rank, **where)
            _meet(watch)
            job.main(*job.args)
            _leave()
        except Exception:
            _is_first()
            raise
        finally:
            watch.stop()


def join_group(device: str, local_rank: int, local_size: int, timeout: timedelta, **kwargs: Any) -> None:
    """Join the process group and make the groups of each machine."""
    if device == "cuda":
        torch.cuda.set_device(local_rank)  # first: what the group sets up on a GPU must be on this rank's
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timeout, **kwargs)
        comm.create_local_process_group(local_size)
        comm.synchronize()
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(f"the processes could not connect: {str(error).splitlines()[0]}") from error


def _meet(watch: Watch) -> None:
    """Tell the ranks of this machine of each other."""
    mine = Process.of(os.getpid())
    ranks = dict(enumerate(comm.all_gather(mine)))
    del ranks[comm.get_rank()]
    store = dist.distributed_c10d._get_default_store()
    watch.meet({rank: one for rank, one in ranks.items() if one.state()}, lambda: store.check([_FAILED]))


def _leave() -> None:
    """End the process group together, after success only: other ranks may hang in a collective after a failure."""
    comm.synchronize()
    if dist.is_initialized():
        dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None


def run_under_torchrun(
    main_func: Callable[..., Any], args: Sequence[Any], timeout: timedelta, device: str, watchdog: float
) -> Any:
    """`main_func(*args)` in this process, which torchrun started; what it raises comes from one rank only."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    agent = os.getppid()

    def lost(text: str) -> None:
        if _is_first():
            _tell_agent(text)
            print(f"stopped: {text}", file=sys.stderr, flush=True)

    watch = Watch(lambda: os.getppid() == agent, lost, watchdog)
    try:
        join_group(device, local_rank, local_size, timeout, init_method="env://")
        _meet(watch)
        result = main_func(*args)
        _leave()
    except Exception as error:
        failure = Failure.of(error)
        gone = _killed_rank(watch) if failure.kind == "connection" else ""
        if not _is_first():  # a message comes once, not once per rank
            sys.exit(failure.code)
        _tell_agent(gone or failure.text)
        if failure.kind == "connection":
            raise JobFailed(gone or failure.text) from None
        raise
    finally:
        watch.stop()
    return result


def _killed_rank(watch: Watch) -> str:
    """The rank whose end broke a connection, in words; it may take a moment until the system knows."""
    for _ in range(20):
        if gone := watch.looker.gone():
            return gone
        time.sleep(0.1)
    return ""


def _is_first() -> bool:
    """Whether no other rank has said what is wrong yet; from now on one has."""
    try:
        return dist.distributed_c10d._get_default_store().add(_FAILED, 1) == 1
    except (RuntimeError, ValueError):
        return True


def _tell_agent(text: str) -> None:
    """The reason, where torchrun's closing report looks for it."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        told = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": told}, file)
