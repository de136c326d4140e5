"""What is measured: the cells of each suite. The first cell of a case is what the others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from detrex_ext.runtime import peers

from . import attention, criterion, models
from .measure import Work

SUITES = ("criterion", "step", "attention", "inference")


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        suite, case: where it belongs; cells of a case are compared.
        impl: who does it.
        dtype: ``fp32``, or ``bf16`` = autocast.
        build: makes the work; what it takes is not measured, except as memory.
        host, side: of the suites ``step`` and ``inference``: a name of ``models.HOSTS``, pixels of the pictures.
    """

    suite: str
    case: str
    impl: str
    dtype: str
    build: Callable[[], Work]
    host: str = ""
    side: int = 0


def cells(
    suite: str, strategies: Sequence[str] = (), device: str = "cpu", with_detrex: bool | None = None
) -> list[Cell]:
    """The cells of a suite that this machine can run.

    Args:
        suite: one of ``SUITES``.
        strategies: names of overlays, each measured beside the bare model, as are all of them together.
        device: where.
        with_detrex: whether detrex's are among them; None: where it is importable, which imports it.
    """
    make = {"criterion": _criterion, "step": _models, "attention": _attention, "inference": _models}[suite]
    return list(make(suite, strategies, device, peers.detrex_importable() if with_detrex is None else with_detrex))


def find(spec: Mapping[str, Any]) -> Cell:
    """The cell that a spec of :func:`spec_of` names; detrex is not imported for another's."""
    names = ("case", "impl", "dtype")
    for cell in cells(spec["suite"], spec["strategies"], spec["device"], spec["impl"] == "detrex"):
        if all(getattr(cell, n) == spec[n] for n in names):
            return cell
    raise LookupError(f"no cell {spec}")


def spec_of(cell: Cell, strategies: Sequence[str], device: str) -> dict[str, Any]:
    """What another process needs to build the same cell."""
    names = {n: getattr(cell, n) for n in ("suite", "case", "impl", "dtype")}
    return {**names, "strategies": list(strategies), "device": device, "threads": torch.get_num_threads()}


def _criterion(suite: str, strategies: Sequence[str], device: str, with_detrex: bool) -> Iterable[Cell]:
    for sets in (6, 32):
        case = f"{sets} sets, 2 images, 300 queries, 80 classes, 20 objects an image"
        for impl, build in criterion.implementations(with_detrex).items():
            yield Cell(suite, case, impl, "fp32", partial(build, sets, device))


def _attention(suite: str, strategies: Sequence[str], device: str, with_detrex: bool) -> Iterable[Cell]:
    for case, sizes in attention.SAMPLING.items():
        for impl in attention.samplers(device, with_detrex):
            yield Cell(suite, case, impl, "fp32", partial(attention.sampling, impl, device, **sizes))
    for case, sizes in attention.DENSE.items():
        for impl in attention.DENSE_IMPLEMENTATIONS:
            yield Cell(suite, case, impl, "fp32", partial(attention.dense, impl, device, **sizes))


def _models(suite: str, strategies: Sequence[str], device: str, with_detrex: bool) -> Iterable[Cell]:
    variants: list[tuple[str, ...]] = [(), *((s,) for s in strategies)]
    if len(strategies) > 1:
        variants.append(tuple(strategies))
    build, sides = (models.step, (320, 480, 640)) if suite == "step" else (models.predict, (640,))
    for host in models.HOSTS:
        # detrex makes denoising queries on a CUDA device only
        compared = with_detrex and (suite, host, device) != ("step", "DINO R50", "cpu")
        for side in sides:
            case = f"{host}, {side} px, batch of 2"
            if compared:
                yield Cell(suite, case, "detrex", "fp32", partial(build, host, None, side, device), host, side)
            for names in variants:
                impl = "+".join(("detrex_ext", *names))
                for dtype in ("fp32", "bf16"):
                    yield Cell(suite, case, impl, dtype, partial(build, host, names, side, device, dtype), host, side)
