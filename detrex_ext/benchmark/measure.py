"""Time of several pieces of work in turn, peak memory of one in a process of its own, and what the machine can do."""

from __future__ import annotations

import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from detrex_ext.runtime.machine import processor

from ..analysis.costs import Costs

try:
    import resource
except ImportError:  # Windows
    resource = None

Work = Callable[[], Any]
CALLS = 3  # of what is measured alone: the later ones find the caches of the first


@dataclass(frozen=True)
class Options:
    """How a suite is measured.

    Attributes:
        strategies: each an overlay, or several joined by "+", measured beside the bare model.
        device: where.
        batch: images of a batch, of the suites ``step`` and ``inference``.
        overrides: ``key=value`` for every model.
        configs: files or short names of what the suites ``step`` and ``inference`` measure; none: the shipped hosts.
        overlays: laid over each of them first.
    """

    strategies: tuple[str, ...] = ()
    device: str = "cpu"
    batch: int = 2
    overrides: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: str = "cpu") -> float:
    """Wall time of one call."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def medians(works: Sequence[Work], repeats: int, device: str = "cpu") -> list[float]:
    """Median seconds of each. They run in turn, so that what disturbs the machine disturbs all of them."""
    for work in works:
        work()
    taken = [[seconds(work, device) for work in works] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def peak_mib(device: str = "cpu") -> float:
    """Largest resident size of this process so far, in MiB; on CUDA the most memory that was allocated there."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        # unlike getrusage it does not start from the size of the process that started this one
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        if resource is None:
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def peak_alone(build: Callable[[], Work], device: str = "cpu") -> float:
    """Peak memory in MiB of a piece of work that is built and run a few times in a fresh process.

    Args:
        build: makes the work; it is pickled.
        device: where it runs.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_peak, build, device, torch.get_num_threads()).result()


def _peak(build: Callable[[], Work], device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    work = build()
    for _ in range(CALLS):
        work()
    wait(device)
    return peak_mib(device)


def work_of(work: Work) -> tuple[float, float]:
    """(operations, bytes) of one call: those of products and convolutions, and what operators read and write.

    Bytes are counted as if no operator found its input in a cache, so they are an upper bound.
    """
    with Costs(sampling=False) as costs:
        work()
    gc.collect()
    return float(costs.flops), float(costs.moved)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What it is, its GEMM rates (operations a second) and its memory bandwidth (bytes a second, read and written)."""
    found: dict[str, Any] = {
        "processor": processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    n, k = (4096, 1024) if torch.device(device).type == "cpu" else (8192, 8192)  # a GPU is not full before
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((n, k), (k, k)))
        found[f"gemm_{name}"] = 2 * n * k * k / _best(lambda a=a, b=b: a @ b, device)
    x = torch.zeros(64 * 2**20, device=device)
    y = torch.empty_like(x)
    found["bandwidth"] = 2 * x.numel() * 4 / _best(lambda: y.copy_(x), device)
    return found


def _best(work: Work, device: str, repeats: int = 7) -> float:
    return min(seconds(work, device) for _ in range(repeats))
