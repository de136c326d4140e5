"""Starting one process per GPU (or CPU worker): detectron2's `launch`, and torchrun's environment honored."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from detrex_ext.errors import UserError

from .processes import run_processes
from .ranks import Job, run_rank, run_under_torchrun
from .watch import LIMIT

DEFAULT_TIMEOUT = timedelta(minutes=30)
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: Sequence[Any] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
    *,
    device: str | None = None,
    watchdog: float = LIMIT,
) -> Any:
    """Run `main_func(*args)` in every process of the job.

    Under torchrun this process is one of them, whatever the numbers say. Otherwise one process needs no process
    group, and more are spawned on this machine.

    Args:
        main_func: picklable, where processes are spawned.
        num_gpus_per_machine: processes per machine, on the CPU too.
        num_machines: machines of the job; `launch` runs once on each.
        machine_rank: number of this machine, from 0.
        dist_url: `tcp://host:port` of machine 0; None or "auto" picks a free port of this machine.
        args: of `main_func`.
        timeout: of the collectives.
        device: "cuda" or "cpu", as the config says; None takes the GPUs there are.
        watchdog: seconds that a process may be stopped (SIGSTOP) before the job ends; 0 = as long as it is.

    Returns: what `main_func` returned, where it ran in this process; else None.

    Raises:
        UserError: fewer GPUs than asked for, a missing or busy dist_url, or what `main_func` raised in a child.
        FloatingPointError: what `main_func` raised in a child.
        JobFailed: a process was killed, or stopped for too long.
    """
    if all(name in os.environ for name in _TORCHRUN):
        device = _check_device(device, int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"]))
        return run_under_torchrun(main_func, args, timeout, device, watchdog)
    if num_gpus_per_machine < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        given = f"--num-gpus {num_gpus_per_machine} --num-machines {num_machines} --machine-rank {machine_rank}"
        raise UserError(f"{given}: there must be at least one process, and the rank must lie in 0..machines-1")
    device = _check_device(device, num_gpus_per_machine, num_gpus_per_machine * num_machines)
    if num_gpus_per_machine * num_machines == 1:
        return main_func(*args)
    store, dist_url = _store(dist_url, num_machines, machine_rank, timeout)
    where = (num_gpus_per_machine, num_machines, machine_rank, dist_url)
    job = Job(main_func, tuple(args), *where, timeout, device, watchdog)
    run_processes(num_gpus_per_machine, run_rank, (job,), watchdog, machine_rank * num_gpus_per_machine)
    del store  # the ranks met in it


def _store(
    dist_url: str | None, num_machines: int, machine_rank: int, timeout: timedelta
) -> tuple[dist.Store | None, str]:
    """Opens the store that all ranks meet in, on machine 0; and the address of it.

    It is of the process that starts the others: so a free port cannot be taken by another job before they use it, and a
    port that is in use is told before anything is started.
    """
    if dist_url in (None, "", "auto"):
        if num_machines > 1:
            raise UserError(
                f"--num-machines {num_machines} without --dist-url\n"
                "  give all machines the same --dist-url tcp://<address of machine 0>:<port>"
            )
        dist_url = "tcp://127.0.0.1:0"
    try:
        url = urlsplit(dist_url)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UserError(f"--dist-url {dist_url}: {error}\n  expected tcp://<address of machine 0>:<port>") from error
    if url.scheme != "tcp" or machine_rank != 0:
        return None, dist_url
    if host is None or port is None:
        raise UserError(f"--dist-url {dist_url}: expected tcp://<address of machine 0>:<port>")
    try:
        store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timeout)
    except (RuntimeError, ValueError) as error:  # of torch, in several lines of C++
        busy = "in use" in str(error) or "EADDRINUSE" in str(error)
        what = f"port {port} of this machine is in use" if busy else f"cannot be opened: {str(error).splitlines()[0]}"
        raise UserError(f"--dist-url {dist_url}: {what}\n  give all machines another port of machine 0") from error
    return store, f"tcp://{host}:{store.port}"


def _check_device(device: str | None, wanted: int, world: int) -> str:
    """The device type to run on; says so when the GPUs are missing."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is not None and not device.startswith("cuda"):
        return "cpu"
    if wanted > found and (device is not None or world > 1):
        few = f"only {found} GPU{'s' if found > 1 else ''}" if found else "no GPU"
        mend = f"--num-gpus {found}, or " if found else ""
        raise UserError(
            f"--num-gpus {wanted} with train.device={device or 'cuda'}, but this machine has {few} that torch can use\n"
            f"  use {mend}train.device=cpu (then --num-gpus is the number of processes)"
        )
    return "cuda" if found else "cpu"
