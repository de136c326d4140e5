"""The memory of a training step by calculation: tensors have shapes and no values, so any machine and any size will do.

A step runs, and what is in use is counted (:mod:`..analysis.costs`); what a GPU does otherwise is in :mod:`.as_on_gpu`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from ..analysis.costs import Costs, shapes_only
from ..data.ground_truth import read_ground_truth
from ..engine.optim import build_optimizer
from ..engine.recomputing import recompute_parts
from ..errors import UserError
from ..layers import cpu
from ..layers.ms_deform_backends import FORCE
from ..matching import base
from ..runtime import Boxes, Instances, instantiate
from .as_on_gpu import as_on_gpu

GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """What a step is calculated for.

    Attributes:
        height, width: of all images, in pixels.
        dtype: "fp32", or "bf16" for autocast to it.
        objects: of each image in turn, most first.
        processes: of a training by DDP, whose buckets hold the gradients once more; FSDP is not calculated.
    """

    height: int = 800
    width: int = 1333
    dtype: str = "bf16"
    objects: tuple[int, ...] = (100,)
    processes: int = 1


@dataclass(frozen=True)
class Peak:
    """Bytes of a step.

    Attributes:
        weights: parameters and buffers, and their average where the config keeps one.
        moments: of the optimizer.
        kept: what the forward pass keeps for the backward pass.
        total: most that is in use at once.
    """

    weights: int
    moments: int
    kept: int
    total: int


def peak(cfg: DictConfig, batch: int, sizes: Sizes, gpu: bool = True) -> Peak:
    """The peak of a training step of a config; the config is left as it was.

    Args:
        cfg: a whole config with ``model.num_classes``.
        batch: images of a process, or of a part of its batch under ``train.accumulate_steps``.
        sizes: of the images and so on.
        gpu: as a GPU computes it; False = as a CPU does without kernels of our own.

    Raises:
        UserError: the step looks at values, so that shapes do not tell.
    """
    costs = Costs()
    try:
        with _without_values(gpu), costs:
            model, optimizer = built(cfg)
            seen: list[int] = []
            forward = lambda: seen.append(costs.now())  # noqa: E731
            work = step(model, optimizer, images(batch, sizes, model.num_classes), sizes.dtype, forward=forward)
            for p in model.parameters():
                p.grad = torch.empty_like(p) if p.requires_grad else None
            optimizer.step()  # so that the moments are there, as in all steps but the first
            optimizer.zero_grad(set_to_none=True)
            standing = costs.restart()
            work()
            return _peak(cfg, model, optimizer, seen[-1] - standing, costs.peak, sizes)
    except (DynamicOutputShapeException, DataDependentOutputException) as error:
        raise UserError(
            f"the memory of this model depends on values, such as the number of its proposals ({error})\n"
            "  measure it on a GPU: benchmark memory --device cuda"
        ) from error


def _peak(
    cfg: DictConfig, model: nn.Module, optimizer: torch.optim.Optimizer, kept: int, most: int, sizes: Sizes
) -> Peak:
    weights = bytes_of((*model.parameters(), *model.buffers()))
    ema = cfg.train.get("model_ema") or {}
    average = weights if ema.get("enabled") and ema.get("device") != "cpu" else 0
    buckets = bytes_of(p for p in model.parameters() if p.requires_grad) if sizes.processes > 1 else 0
    moments = bytes_of(tree_leaves(list(optimizer.state.values())))
    return Peak(weights + average, moments, kept, most + average + buckets)


def bytes_of(values: Any) -> int:
    """Bytes of the tensors among values."""
    return sum(x.numel() * x.element_size() for x in values if isinstance(x, Tensor))


def built(cfg: DictConfig) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer as a training has them, on the device that is in force."""
    model = instantiate(copy.deepcopy(cfg.model)).train()
    recompute_parts(model, (cfg.get("train") or {}).get("activation_checkpointing"))
    if hasattr(getattr(model, "criterion", None), "check_finite"):
        model.criterion.check_finite = False
    return model, build_optimizer(cfg, model)


def images(batch: int, sizes: Sizes, classes: int) -> list[dict[str, Any]]:
    """A batch of one size with so many objects; its images are made in the mode in force, objects have values."""
    items = []
    for i in range(batch):
        image = torch.zeros(3, sizes.height, sizes.width, dtype=torch.uint8)
        with _disable_current_modes():
            count = sizes.objects[i % len(sizes.objects)]
            make = torch.Generator().manual_seed(i)
            corner, side = (torch.rand(count, 2, generator=make) for _ in range(2))
            boxes = torch.cat([0.6 * corner, 0.6 * corner + 0.05 + 0.3 * side], 1)
            instances = Instances((sizes.height, sizes.width))
            instances.gt_boxes = Boxes(boxes * torch.tensor([sizes.width, sizes.height] * 2))
            instances.gt_classes = torch.randint(classes, (count,), generator=make)
        items.append({"image": image, "instances": instances, "height": sizes.height, "width": sizes.width})
    return items


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, items: list[dict[str, Any]], dtype: str, device: str = "cpu",
    forward: Callable[[], Any] = lambda: None,
) -> Callable[[], None]:
    """A step as the trainer makes it; ``forward`` is called between its two passes."""

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16"):
            total = sum(model(items).values())
        forward()
        total.backward()
        optimizer.step()

    return run


@contextmanager
def _without_values(gpu: bool) -> Iterator[None]:
    """Tensors without values, and what answers for them where somebody looks: all matching costs are zero."""
    environment = mock.patch.dict(os.environ, {FORCE: "cpu" if gpu else "torch"})
    how = as_on_gpu() if gpu else cpu.switched(False)
    with environment, mock.patch.object(base, "_to_host", _zeros), shapes_only(), how:
        yield


def _zeros(tensors: Sequence[Tensor]) -> list[Any]:
    with _disable_current_modes():
        return [torch.zeros(tuple(x.shape), dtype=x.dtype).numpy() for x in tensors]


def most_crowded(json: str, batch: int) -> tuple[int, ...]:
    """Numbers of objects of the most crowded images of a COCO file, most first, so many as a batch has.

    Raises:
        UserError: it cannot be read.
    """
    boxes = read_ground_truth(json, sound=True).boxes
    counts = np.bincount(boxes.image_P[boxes.learned_P]) if boxes is not None else np.zeros(1, int)
    return tuple(sorted(counts.tolist(), reverse=True)[:batch]) or (0,)


def measured(cfg: DictConfig, batch: int, sizes: Sizes, device: torch.device) -> int:
    """Bytes that a few such steps take at most on a device, as torch's allocator counts them there."""
    model, optimizer = built(cfg)
    model.to(device)
    optimizer = build_optimizer(cfg, model)
    work = step(model, optimizer, images(batch, sizes, model.num_classes), sizes.dtype, device.type)
    for _ in range(2):
        work()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)
