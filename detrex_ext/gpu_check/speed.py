"""The steps of measurements: sampling by backend, training, strategies, prediction, compiled prediction."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from detrex_ext.benchmark.measure import Work, peak_mib
from detrex_ext.engine.optim import build_optimizer
from detrex_ext.layers import ms_deform_backends
from detrex_ext.runtime import peers

from .models import built, images
from .sampling import DTYPES, Sizes, inputs, outcome
from .sampling_cases import REAL
from .table import Case, NotHere, Options, Row, found
from .timing import kernels_of, replayed_seconds_of, seconds_of

_HOST = "DINO R50"
_TIME, _SAMPLING_TIME = 1.5, 0.3  # seconds of each measurement, after what warms up
_FULL, _LESS, _QUICK = (800, 1333), (480, 640), (96, 128)
_OBJECTS = (7, 12)
_taken: dict[tuple, float] = {}  # what this process measured before, for ratios


def kernels(options: Options) -> list[Case]:
    """Forward and backward of an encoder's and a decoder's sampling."""
    names = ["torch", "triton" if options.on_gpu else "cpu", *_detrex(options)]
    queries = {"encoder": REAL.T, "decoder, 900 queries": 900, "decoder, 9000 queries": 9000}
    made = []
    for what, T in (queries if not options.quick else {"decoder, 50 queries": 50}).items():
        shapes = REAL.shapes if not options.quick else ((6, 9), (3, 5))
        sizes = Sizes(shapes, B=2, T=T, H=8, D=32, K=4)
        for dtype in ("fp32", "bf16", "fp16")[: 2 if options.quick else 3]:
            for backend in [name for name in names if not (name == "detrex" and dtype != "fp32")]:
                work = partial(sampled, what, sizes, backend, dtype, options)
                made.append(Case(f"{what}, {dtype}, {backend}", work))
    return made


def _detrex(options: Options) -> list[str]:
    """The operator of detrex, where it is installed and can run."""
    return ["detrex"] if options.on_gpu and peers.detrex_msda_op() is not None else []


def sampled(what: str, sizes: Sizes, backend: str, dtype: str, options: Options) -> Row:
    """Milliseconds, and how many times as fast as grid_sample that is."""
    leaves = [x.detach().to(options.device).requires_grad_() for x in inputs(sizes, DTYPES[dtype])]
    upstream = torch.randn(sizes.B, sizes.T, sizes.H * sizes.D, device=options.device)
    time = _time(options, _SAMPLING_TIME)
    seconds = replayed_seconds_of(lambda: outcome(backend, sizes.shapes, leaves, upstream), options.device, time)
    key = ("sampling", what, dtype)
    return found(None, ms=1e3 * seconds, as_fast_as_grid_sample=_ratio(key, backend == "torch", seconds))


def _time(options: Options, seconds: float) -> float:
    return 0.0 if options.quick else seconds


def _ratio(key: tuple, first: bool, seconds: float) -> float | str:
    """Time of the first of a kind over this one."""
    if first:
        _taken[key] = seconds
    return _taken[key] / seconds if key in _taken else ""


@contextlib.contextmanager
def _sampling_by(backend: str) -> Iterator[None]:
    before = os.environ.get(ms_deform_backends.FORCE)
    os.environ[ms_deform_backends.FORCE] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ[ms_deform_backends.FORCE]
        else:
            os.environ[ms_deform_backends.FORCE] = before


def training(options: Options) -> list[Case]:
    """DINO as published, by size, batch, type and backend of sampling."""
    made = []
    rows = [(_FULL, 2, "bf16"), (_FULL, 8, "bf16"), (_FULL, 2, "fp32"), (_LESS, 2, "bf16"), (_LESS, 8, "bf16")]
    for size, batch, dtype in rows if not options.quick else [(_QUICK, 1, "fp32")]:
        name = f"{size[0]} x {size[1]}, batch of {batch}, {dtype}"
        backends = ["auto", "torch", *_detrex(options)]
        for backend in backends if size == _FULL else backends[:1]:
            work = partial(trained, (), size, batch, dtype, backend, options)
            made.append(Case(f"{name}, sampling {'grid_sample' if backend == 'torch' else backend}", work))
    return made


def strategies(options: Options) -> list[Case]:
    """The same model bare and under strategies."""
    size, batch, dtype = (_FULL, 2, "bf16") if not options.quick else (_QUICK, 1, "fp32")
    names = ("bare", "sqr", "dac", "hybrid", "dac+sqr") if not options.quick else ("bare", "dac")
    return [
        Case(name, partial(trained, tuple(name.split("+")) if name != "bare" else (), size, batch, dtype, "auto",
                           options)) for name in names
    ]  # fmt: skip


def trained(
    overlays: tuple[str, ...], size: tuple[int, int], batch: int, dtype: str, backend: str, options: Options
) -> Row:
    """A whole step: forward, losses, backward, optimizer."""
    cfg, net = built(_HOST, overlays, False, options.quick)
    net.to(options.device)
    net.criterion.check_finite = False
    work = _step(net, build_optimizer(cfg, net), images(net, (_OBJECTS * batch)[:batch], size), options.device, dtype)
    try:
        with _sampling_by(backend):
            row = measured(work, batch, options)
    except torch.cuda.OutOfMemoryError as error:
        raise NotHere(f"it does not fit: {error}") from error
    key = ("step", size, batch, dtype)
    return {**row, "times_of_bare": _slower(key, not overlays and backend == "auto", row["ms"])}


def _slower(key: tuple, first: bool, ms: float) -> float | str:
    if first:
        _taken[key] = ms
    return ms / _taken[key] if key in _taken else ""


def _step(net: Any, optimizer: torch.optim.Optimizer, items: list, device: str, dtype: str) -> Work:
    def run() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16"):
            losses = net(items)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def measured(work: Work, batch: int, options: Options) -> Row:
    """Images a second, milliseconds, kernels and busy share, peak memory."""
    if options.on_gpu:
        torch.cuda.reset_peak_memory_stats(options.device)
    seconds = seconds_of(work, options.device, _time(options, _TIME))
    values = {"images_per_second": batch / seconds, "ms": 1e3 * seconds}
    if options.on_gpu:
        values["peak_gib"] = peak_mib(options.device) / 1024
        launched, busy = kernels_of(work)
        values |= {"kernels": launched, "gpu_ms": 1e3 * busy, "gpu_busy": busy / seconds}
    return found(None, **values)


def inference(options: Options) -> list[Case]:
    """Prediction with post-processing."""
    rows = [(_FULL, 1, "fp32"), (_FULL, 1, "bf16"), (_FULL, 8, "fp32"), (_FULL, 8, "bf16")]
    rows = rows if not options.quick else [(_QUICK, 1, "fp32")]
    return [Case(f"{size[0]} x {size[1]}, batch of {batch}, {dtype}", partial(predicted, size, batch, dtype, options))
            for size, batch, dtype in rows]  # fmt: skip


def predictor(size: tuple[int, int], batch: int, dtype: str, options: Options) -> tuple[Any, Work]:
    """The model, and what predicts with it on a batch of noise."""
    _, net = built(_HOST, (), False, options.quick)
    net.to(options.device).eval().requires_grad_(False)
    items = images(net, (0,) * batch, size)

    @torch.no_grad()
    def run() -> Any:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=dtype == "bf16"):
            return net(items)

    return net, run


def predicted(size: tuple[int, int], batch: int, dtype: str, options: Options) -> Row:
    """Prediction as it is."""
    return measured(predictor(size, batch, dtype, options)[1], batch, options)


def compiled(options: Options) -> list[Case]:
    """Prediction by `torch.compile`."""
    return [Case("800 x 1333, batch of 1, bf16", lambda: by_compiler(_FULL, 1, "bf16", options))]


def by_compiler(size: tuple[int, int], batch: int, dtype: str, options: Options) -> Row:
    """The part between tensors compiled; what it answers beside what it answers as it is."""
    if options.quick:
        raise NotHere("a compilation takes minutes on a CPU")
    net, work = predictor(size, batch, dtype, options)
    scores = [work()[0]["instances"].scores]
    net.core = torch.compile(net.core)
    try:
        scores.append(work()[0]["instances"].scores)
    except Exception as error:  # a compiler that cannot is no fault of what it cannot compile
        raise NotHere(f"it does not compile: {type(error).__name__}: {str(error)[:200]}") from error
    far = float((scores[0] - scores[1]).abs().max()) if scores[0].shape == scores[1].shape else "other number"
    return {**measured(work, batch, options), "scores_differ": far}
