"""The step `waits`: how often the host looks at a value and so waits until the GPU has done all it was told."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

import detrex_ext
from detrex_ext.engine.optim import build_optimizer
from detrex_ext.matching import on_device

from .models import built, images
from .table import Case, NotHere, Options, Row, found

PACKAGE = Path(detrex_ext.__file__).parent
HOSTS = {
    "DINO R50": ((), ("sqr",), ("dac",), ("hybrid",)), "DAB-DETR R50": ((),), "AdaMixer R50": ((),),
    "Deformable-DETR R50": ((),), "DETR R50": ((),), "TSP-FCOS R50": ((),),
}  # fmt: skip


def cases(options: Options) -> list[Case]:
    """A few hosts, DINO with strategies."""
    return [
        Case(f"{host}, {'+'.join(overlays) or 'bare'}", partial(count, host, overlays, options))
        for host, all_of in HOSTS.items()
        for overlays in (all_of[:1] if options.quick else all_of)
    ]


def count(host: str, overlays: tuple[str, ...], options: Options) -> Row:
    """Of one step, forward, backward and optimizer, after one that fills caches."""
    if not options.on_gpu:
        raise NotHere("nobody waits for a GPU on a CPU")
    cfg, net = built(host, overlays, quick=options.quick)
    net.to(options.device)
    net.criterion.check_finite = False  # waits, and says so
    optimizer, batch = build_optimizer(cfg, net), images(net)
    for counted in (False, True):
        with waits(counted) as places:
            losses = net(batch)
            sum(losses.values()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return row_of(places, 0 if on_device.usable(torch.device(options.device)) else 1)


def row_of(places: Counter[str], allowed: int) -> Row:
    """The row of what waited, by place; the copy of all costs may where SciPy solves them."""
    number = sum(places.values())
    told = ", ".join(f"{n} x {place}" for place, n in places.most_common(6))
    return found(number <= allowed, told, waits=number)


@contextlib.contextmanager
def waits(counted: bool = True) -> Iterator[Counter[str]]:
    """What waits inside, by the place in the package that made it."""
    places: Counter[str] = Counter()

    def note(message: Warning | str, *args: object) -> None:
        if "called a synchronizing" in str(message):
            places[_place()] += 1

    if not counted:
        yield places
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


def _place() -> str:
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
    own = [f for f in frames if Path(f.filename).parent.name != "gpu_check" and Path(f.filename).name != "placing.py"]
    if own:
        return f"{Path(own[-1].filename).relative_to(PACKAGE).as_posix()}:{own[-1].lineno}"
    return "the backward pass or the optimizer"
