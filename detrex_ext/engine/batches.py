"""Batches of samples: cutting them, and describing them where they do not fit."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from detrex_ext.errors import UserError
from detrex_ext.runtime import comm

Batch = list[dict[str, Any]]


def split(batch: Batch, parts: int) -> list[Batch]:
    """Equal parts of a batch, in order.

    Raises:
        UserError: it does not divide.
    """
    size, rest = divmod(len(batch), parts)
    if rest or not size:
        raise UserError(
            f"train.accumulate_steps={parts}: a process's batch of {len(batch)} does not divide into {parts} parts\n"
            "  choose dataloader.train.total_batch_size as a multiple of processes x accumulate_steps"
        )
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def totals(batch: Batch, device: torch.device) -> tuple[float, float]:
    """Objects and images of a step over all ranks. Collective."""
    objects = sum(len(sample["instances"]) for sample in batch)
    if comm.get_world_size() == 1:
        return float(objects), float(len(batch))
    sums = torch.tensor([objects, len(batch)], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return tuple(sums.tolist())


def told(model: nn.Module, **facts: Any) -> dict[str, Any]:
    """Those facts of a step that a model's ``forward`` takes by name; ours takes ``effective`` and ``progress``."""
    taken = inspect.signature(model.forward).parameters
    return {name: value for name, value in facts.items() if name in taken}


def out_of_memory(batch: Batch, iteration: int, accumulate_steps: int) -> UserError:
    """What was in the batch that did not fit, and what makes it smaller."""
    height, width = (max(sample["image"].shape[axis] for sample in batch) for axis in (-2, -1))
    objects = max(len(sample["instances"]) for sample in batch)
    more = 2 * accumulate_steps
    fewer = f"train.accumulate_steps={more}, " if len(batch) % more == 0 else "fewer images (total_batch_size), "
    return UserError(
        f"out of GPU memory in iteration {iteration}: {len(batch)} images in {accumulate_steps} part(s), padded to "
        f"{width} x {height}, up to {objects} objects in one\n"
        f"  use {fewer}train.amp.enabled=true, or smaller images (max_size of the transforms)"
    )
