"""Starting one process per GPU (or CPU worker): detectron2's `launch`, and torchrun's environment honored."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detrex_ext.errors import UserError
from detrex_ext.runtime import comm, machine

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

    Returns: what `main_func` returned, where it ran in this process.

    Raises:
        UserError: fewer GPUs than asked for, a missing dist_url, or what `main_func` raised in a child.
    """
    if all(name in os.environ for name in _TORCHRUN):
        return _run_under_torchrun(main_func, args, timeout, device)
    if num_gpus_per_machine < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise UserError(
            f"--num-gpus {num_gpus_per_machine} --num-machines {num_machines} --machine-rank {machine_rank}: "
            "there must be at least one process, and the rank must lie in 0..machines-1"
        )
    device = _check_device(device, num_gpus_per_machine, num_gpus_per_machine * num_machines)
    if num_gpus_per_machine * num_machines == 1:
        return main_func(*args)
    if dist_url in (None, "", "auto"):
        if num_machines > 1:
            raise UserError(
                f"--num-machines {num_machines} without --dist-url\n"
                "  give all machines the same --dist-url tcp://<address of machine 0>:<port>"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    where = (num_gpus_per_machine, num_machines, machine_rank, dist_url)
    return _spawn(num_gpus_per_machine, (main_func, *where, args, timeout, device))


def _spawn(count: int, child_args: tuple) -> None:
    """So many processes that run `_child`; a `UserError` of one is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        # torch warns of every process it ends after the first failure; the failure itself is what counts
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
        try:
            mp.start_processes(_child, (*child_args, folder), count, daemon=False, start_method="spawn")
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
            message = Path(folder, str(error.error_index))
            if message.is_file():
                raise UserError(message.read_text(encoding="utf-8")) from None
            raise


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


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _child(
    local_rank: int,
    main_func: Callable[..., Any],
    num_gpus: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: Sequence[Any],
    timeout: timedelta,
    device: str,
    folder: str,
) -> None:
    rank, world = machine_rank * num_gpus + local_rank, num_machines * num_gpus
    if device == "cpu":
        machine.fit_threads(num_gpus)
    try:
        _init(device, local_rank, num_gpus, timeout, init_method=dist_url, world_size=world, rank=rank)
        main_func(*args)
    except UserError as error:
        Path(folder, str(local_rank)).write_text(str(error), encoding="utf-8")
        sys.exit(2)
    _leave()


def _init(device: str, local_rank: int, local_size: int, timeout: timedelta, **kwargs: Any) -> None:
    """Join the process group and make the groups of each machine."""
    if device == "cuda":
        torch.cuda.set_device(local_rank)  # first: what the group sets up on a GPU must be on this rank's
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timeout, **kwargs)
    except (ValueError, RuntimeError) as error:
        where = kwargs.get("init_method", "env://")
        raise UserError(f"the processes could not connect through {where}: {str(error).splitlines()[0]}") from error
    comm.create_local_process_group(local_size)
    comm.synchronize()


def _leave() -> None:
    """End the process group, after success only: other ranks may hang in a collective after a failure."""
    if dist.is_initialized():
        dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None


def _run_under_torchrun(
    main_func: Callable[..., Any], args: Sequence[Any], timeout: timedelta, device: str | None
) -> Any:
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    device = _check_device(device, local_size, int(os.environ["WORLD_SIZE"]))
    _init(device, local_rank, local_size, timeout, init_method="env://")
    try:
        result = main_func(*args)
    except UserError:
        if not _first_to_report():
            sys.exit(2)
        raise
    _leave()
    return result


def _first_to_report() -> bool:
    """Whether no other rank has said what is wrong yet: a message comes once, not once per rank."""
    try:
        return dist.distributed_c10d._get_default_store().add("detrex_ext/user_error", 1) == 1
    except (RuntimeError, ValueError):
        return True
