"""Time of a piece of work, the kernels that it starts on a GPU and how long these run."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch

from detrex_ext.benchmark.measure import Work, wait

_WARM, _LEAST, _MOST, _CALLS, _RECORDED = 3, 3, 1000, 2, 5
_COPIES, _MARKS = ("Memcpy", "Memset"), ("Optimizer.", "ProfilerStep")


def seconds_of(work: Work, device: str, budget: float) -> float:
    """Seconds of a call, of as many in a row as the budget has room for; the host may run ahead of the GPU.

    Args:
        work: what is called.
        device: where it runs.
        budget: seconds; 0 = a single call, and one that warms up.
    """
    for _ in range(_WARM if budget else 1):
        work()
    wait(device)
    calls, start = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        if calls >= (_LEAST if budget else 1) and time.perf_counter() - start >= budget:
            break
    wait(device)
    return (time.perf_counter() - start) / calls


def replayed_seconds_of(work: Work, device: str, budget: float) -> float:
    """Seconds that the kernels of a call take on a GPU: recorded as a CUDA graph, whose replay the host does not slow.

    On a CPU, as :func:`seconds_of`.
    """
    if torch.device(device).type != "cuda":
        return seconds_of(work, device, budget)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(_WARM):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_RECORDED):
            work()
    once = seconds_of(graph.replay, device, 0)
    # a replay returns at once: counted by the clock of the host, they would fill the GPU's queue for minutes
    replays = max(_LEAST, min(_MOST, int(budget / max(once, 1e-9))))
    start = time.perf_counter()
    for _ in range(replays):
        graph.replay()
    wait(device)
    return (time.perf_counter() - start) / replays / _RECORDED


def kernels_of(work: Work) -> tuple[float, float]:
    """Kernels that a call starts, and seconds in which at least one kernel or copy runs.

    Raises:
        RuntimeError: the profiler sees nothing of the GPU, as where another one is at work.
    """
    # of the GPU alone: what the host does is not asked, and noting it would slow it down
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(_CALLS):
            work()
        torch.cuda.synchronize()
    spans, started = [], 0
    events = profiler.events()
    # what a person or an optimizer marks is shown on the GPU too, and is no kernel
    marks = {event.name for event in events if getattr(event, "is_user_annotation", False)}
    for event in events:
        named = event.name in marks or event.name.startswith(_MARKS)
        if event.device_type == torch.autograd.DeviceType.CUDA and not named:
            spans.append((event.time_range.start, event.time_range.end))
            started += not event.name.startswith(_COPIES)
    if not spans:
        raise RuntimeError("the profiler sees no kernel")
    return started / _CALLS, busy(spans) / 1e6 / _CALLS


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what spans of time cover together."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
