"""Ranks and collectives of Python objects on torch.distributed, with detectron2's names.

Without an initialized process group everything behaves as one process.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detrex_ext.errors import UserError

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes of the job, over all machines."""
    return dist.get_world_size() if _distributed() else 1


def get_rank() -> int:
    """Number of this process in the job, from 0."""
    return dist.get_rank() if _distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the groups of the ranks of one machine; every rank calls it once.

    Args:
        num_workers_per_machine: ranks per machine; it divides the world size.
    """
    global _LOCAL_PROCESS_GROUP
    if _LOCAL_PROCESS_GROUP is not None:
        raise AssertionError("the local process group exists already")
    world, size = get_world_size(), num_workers_per_machine
    if world % size:
        raise AssertionError(f"{size} ranks per machine do not divide the world size {world}")
    for machine in range(world // size):
        group = dist.new_group(list(range(machine * size, (machine + 1) * size)))
        if machine == get_rank() // size:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """The group of this machine's ranks.

    Raises:
        AssertionError: `create_local_process_group` was not called.
    """
    if _LOCAL_PROCESS_GROUP is None:
        raise AssertionError("the local process group is missing: start processes through launch()")
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Rank within this machine."""
    return dist.get_rank(group=get_local_process_group()) if _distributed() else 0


def get_local_size() -> int:
    """Number of processes of this machine; of the job, where nobody said who is on which."""
    return dist.get_world_size(_LOCAL_PROCESS_GROUP) if _distributed() else 1


def is_main_process() -> bool:
    """True on rank 0."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait for all ranks."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == "nccl":
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _gloo_group(default: dist.ProcessGroup) -> dist.ProcessGroup:
    """All ranks on gloo: objects are pickled on the CPU. Cached per process group that was initialized."""
    return default if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def _object_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    return group if group is not None else _gloo_group(dist.group.WORLD)


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The picklable `data` of all ranks, in order of rank."""
    if get_world_size() == 1:
        return [data]
    group = _object_group(group)
    out = [None] * dist.get_world_size(group)
    dist.all_gather_object(out, data, group=group)
    return out


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The picklable `data` of all ranks on rank `dst`; an empty list elsewhere."""
    if get_world_size() == 1:
        return [data]
    group = _object_group(group)
    out = [None] * dist.get_world_size(group) if dist.get_rank() == dst else None
    dist.gather_object(data, out, dst=dst, group=group)
    return out or []


def shared_random_seed() -> int:
    """A random number below 2**31 from numpy's generator, that of rank 0 on all ranks."""
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Sum or mean over the ranks of scalar tensors that all ranks have under the same names.

    Args:
        input_dict: not changed.
        average: mean instead of sum.

    Returns:
        The result on rank 0; on other ranks values that mean nothing.
    """
    world = get_world_size()
    if world == 1 or not input_dict:
        return input_dict
    names = sorted(input_dict)
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        return dict(zip(names, values / world if average else values, strict=True))


def ddp_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of DistributedDataParallel as this torch calls them: what was `broadcast_buffers` has a new name.

    Under the new one a False leaves the buffers of rank 0 to all at the start, where they are alike in any case.
    """
    given, new = dict(given), "forward_sync_buffers"
    if "broadcast_buffers" in given and new in inspect.signature(DistributedDataParallel.__init__).parameters:
        given.setdefault(new, given.pop("broadcast_buffers"))
    return given


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, bf16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wrap in DistributedDataParallel where there is more than one process.

    Args:
        model: on this rank's device.
        fp16_compression: send gradients as fp16.
        bf16_compression: send gradients as bf16, which has the range of fp32.
        **kwargs: for DistributedDataParallel; `device_ids` defaults to this rank's GPU, none on the CPU.

    Raises:
        UserError: both compressions.
    """
    if fp16_compression and bf16_compression:
        raise UserError(
            "train.ddp.fp16_compression and train.ddp.bf16_compression: gradients travel in one type\n"
            "  bf16 has the range of fp32, fp16 more digits"
        )
    if get_world_size() == 1:
        return model
    if "device_ids" not in kwargs and next(model.parameters()).device.type != "cpu":
        kwargs["device_ids"] = [get_local_rank()]
    ddp = DistributedDataParallel(model, **ddp_arguments(kwargs))
    if fp16_compression or bf16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        hook = default_hooks.fp16_compress_hook if fp16_compression else default_hooks.bf16_compress_hook
        ddp.register_comm_hook(state=None, hook=hook)
    return ddp
