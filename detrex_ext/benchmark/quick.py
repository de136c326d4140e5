"""A few measurements of a second each: what this machine does in a product, a convolution, a sampling and a step."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from detrex_ext.config import load_config
from detrex_ext.layers import cpu, ms_deform_backends
from detrex_ext.runtime import instantiate

from . import models
from .measure import Options, Work, wait

RECIPE = "quickstart"
CLASSES = 3  # of the shapes data set
_MAPS = ((16, 16), (8, 8), (4, 4))
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# a step of a training has data and the optimizer too, and a training its evaluations; measured on two cores
_MORE = 1.2


def quick(device: str, precision: str, budget: float) -> dict[str, Any]:
    """All of them.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16", of the step.
        budget: seconds that each may take, beside a first call that is not counted.

    Returns:
        gflops: of a matrix product, by type; channels_last: how many times as fast as contiguous a convolution is;
        sampling: the backend in use and its and plain torch's milliseconds, both passes; step: seconds of a step of
        ``RECIPE`` and the minutes of that recipe.
    """
    a, b = (torch.randn(shape, device=device) for shape in ((1024, 512), (512, 512)))
    gflops = {}
    for name in dict.fromkeys(("fp32", precision, "bf16")):
        x, y = a.to(_TYPES[name]), b.to(_TYPES[name])
        gflops[name] = round(2 * 1024 * 512 * 512 / best(lambda x=x, y=y: x @ y, budget, device) / 1e9, 1)
    return {
        "device": device,
        "gflops": gflops,
        "channels_last": round(_channels_last(device, precision, budget), 2),
        "sampling": _sampling(device, budget),
        "step": _step(device, precision, budget),
    }


def best(work: Work, budget: float, device: str = "cpu") -> float:
    """Seconds of the fastest call that so many seconds have room for: of one, at least, after one that warms up."""
    work()
    wait(device)
    end, fastest = time.perf_counter() + budget, float("inf")
    while True:
        start = time.perf_counter()
        work()
        wait(device)
        now = time.perf_counter()
        fastest = min(fastest, now - start)
        if now >= end:
            return max(fastest, 1e-9)


def _channels_last(device: str, precision: str, budget: float) -> float:
    """Time of a convolution of the recipe's size in contiguous memory over that in channels_last, both passes."""
    taken = []
    for form in (torch.contiguous_format, torch.channels_last):
        layer = nn.Conv2d(64, 64, 3, padding=1).to(device, memory_format=form)
        x = torch.randn(8, 64, 16, 16, device=device).to(memory_format=form).requires_grad_()

        def run(layer: nn.Module = layer, x: torch.Tensor = x) -> None:
            with torch.autocast(device, _TYPES[precision], enabled=precision != "fp32"):
                y = layer(x)
            y.float().sum().backward()

        taken.append(best(run, budget, device))
    return taken[0] / taken[1]


def sampling_backend(device: str) -> str:
    """The backend of deformable sampling for values and points of the recipe's size."""
    return ms_deform_backends.choose(*_sampled(device)[:2])


def _sampled(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    like = {"device": device, "requires_grad": True}
    points = (8, 60, 8, 3, 4)  # images, queries, heads, levels, points
    value = torch.randn(8, sum(h * w for h, w in _MAPS), 8, 16, **like)
    return value, torch.rand(*points, 2, **like), torch.rand(points, **like)


def _sampling(device: str, budget: float) -> dict[str, Any]:
    value, at, weight = _sampled(device)
    used = ms_deform_backends.choose(value, at)

    def run(name: str) -> None:
        ms_deform_backends.load(name)(value, _MAPS, at, weight).sum().backward()

    times = {name: round(1e3 * best(lambda name=name: run(name), budget, device), 2) for name in {used, "torch"}}
    return {"backend": used, "ms": times[used], "torch_ms": times["torch"]}


def _step(device: str, precision: str, budget: float) -> dict[str, Any]:
    torch.manual_seed(0)
    cfg = load_config(RECIPE, (), (f"model.num_classes={CLASSES}",))
    net = instantiate(cfg.model).to(device, memory_format=torch.channels_last)
    side, size, steps = cfg.dataset.long_edge, cfg.dataloader.train.total_batch_size, cfg.train.max_iter
    work = models.training(net, side, Options(device=device, batch=size), precision, CLASSES)
    found = {"seconds": best(work, budget, device)}
    if device == "cpu" and cpu.enabled():
        with cpu.switched(False):
            found["without_cpu_kernels"] = best(work, budget, device)
    found = {name: round(value, 4) for name, value in found.items()}
    return {"recipe": RECIPE, "precision": precision, "batch": size, "side": side, "steps": steps, **found,
            "minutes": round(_MORE * steps * found["seconds"] / 60, 1)}  # fmt: skip
