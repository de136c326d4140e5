"""What is measured: the cells of each suite. The first cell of a case is what the others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from detrex_ext.runtime import peers

from . import attention, criterion, models
from .measure import Options, Work

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


def cells(suite: str, options: Options, with_detrex: bool | None = None) -> list[Cell]:
    """The cells of a suite that this machine can run.

    Args:
        suite: one of ``SUITES``.
        options: what is compared, and where.
        with_detrex: whether detrex's are among them; None: where it is importable, which imports it.
    """
    make = {"criterion": _criterion, "step": _models, "attention": _attention, "inference": _models}[suite]
    return list(make(suite, options, peers.detrex_importable() if with_detrex is None else with_detrex))


def find(spec: Mapping[str, Any]) -> Cell:
    """The cell that a spec of :func:`spec_of` names; detrex is not imported for another's."""
    options = Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec["options"].items()})
    names = ("case", "impl", "dtype")
    for cell in cells(spec["suite"], options, spec["impl"].split("+")[0] == "detrex"):
        if all(getattr(cell, n) == spec[n] for n in names):
            return cell
    raise LookupError(f"no cell {spec}")


def spec_of(cell: Cell, options: Options) -> dict[str, Any]:
    """What another process needs to build the same cell."""
    names = {n: getattr(cell, n) for n in ("suite", "case", "impl", "dtype")}
    return {**names, "options": asdict(options), "threads": torch.get_num_threads()}


def _criterion(suite: str, options: Options, with_detrex: bool) -> Iterable[Cell]:
    for sets in (6, 32):
        case = f"{sets} sets, 2 images, 300 queries, 80 classes, 20 objects an image"
        for impl, build in criterion.implementations(with_detrex).items():
            yield Cell(suite, case, impl, "fp32", partial(build, sets, options.device))


def _attention(suite: str, options: Options, with_detrex: bool) -> Iterable[Cell]:
    device = options.device
    for case, sizes in attention.SAMPLING.items():
        for impl in attention.samplers(device, with_detrex):
            yield Cell(suite, case, impl, "fp32", partial(attention.sampling, impl, device, **sizes))
    for case, sizes in attention.DENSE.items():
        for impl in attention.DENSE_IMPLEMENTATIONS:
            yield Cell(suite, case, impl, "fp32", partial(attention.dense, impl, device, **sizes))


def _models(suite: str, options: Options, with_detrex: bool) -> Iterable[Cell]:
    variants = [(), *(tuple(s.split("+")) for s in options.strategies)]
    build, sides = (models.step, (320, 480, 640)) if suite == "step" else (models.predict, (640,))
    for host in models.HOSTS:
        # detrex makes denoising queries on a CUDA device only
        compared = with_detrex and (suite, host, options.device) != ("step", "DINO R50", "cpu")
        for side in sides:
            case = f"{host}, {side} px, batch of {options.batch}"
            made = [("detrex", names, "fp32") for names in variants if compared and models.peer_of(host, names)]
            made += [("detrex_ext", names, dtype) for names in variants for dtype in ("fp32", "bf16")]
            for who, names, dtype in made:
                work = partial(build, host, names, side, options, dtype, by_detrex=who == "detrex")
                yield Cell(suite, case, "+".join((who, *names)), dtype, work, host, side)
