"""What is measured: the cells of each suite. The first cell of a case is what the others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from . import attention, criterion, models, sampling, targets
from .measure import Options, Work


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        suite, case: where it belongs; cells of a case are compared.
        impl: who does it.
        dtype: ``fp32``, or ``bf16`` = autocast; of the suites ``sampling`` and ``tiles``: of the values.
        build: makes the work, as a partial of a function of a module; what it takes is not measured, except as memory.
        host, side: of the suites ``step`` and ``inference``: a name of ``models.HOSTS`` or a config, pixels.
    """

    suite: str
    case: str
    impl: str
    dtype: str
    build: Callable[[], Work]
    host: str = ""
    side: int = 0


def cells(suite: str, options: Options) -> list[Cell]:
    """The cells of a suite, one of ``SUITES``."""
    make = {
        "criterion": _criterion,
        "step": _models,
        "attention": _attention,
        "inference": _models,
        "sampling": _sampling,
        "tiles": _tiles,
    }
    return list(make[suite](suite, options))


def _criterion(suite: str, options: Options) -> Iterator[Cell]:
    for sets in (6, 32):
        case = f"{sets} sets, 2 images, 300 queries, 80 classes, 20 objects an image"
        for impl, build in criterion.IMPLEMENTATIONS.items():
            yield Cell(suite, case, impl, "fp32", partial(build, sets=sets, device=options.device))
    for impl, build in targets.IMPLEMENTATIONS.items():
        yield Cell(suite, targets.CASE, impl, "fp32", partial(build, device=options.device))


def _attention(suite: str, options: Options) -> Iterator[Cell]:
    device = options.device
    for case, sizes in attention.SAMPLING.items():
        for impl in attention.samplers(device):
            yield Cell(suite, case, impl, "fp32", partial(attention.sampling, impl=impl, device=device, **sizes))
    for case, sizes in attention.DENSE.items():
        for impl in attention.DENSE_IMPLEMENTATIONS:
            yield Cell(suite, case, impl, "fp32", partial(attention.dense, impl=impl, device=device, **sizes))


def _sampling(suite: str, options: Options) -> Iterator[Cell]:
    for case, given in sampling.cases(options.device):
        work = partial(sampling.work, device=options.device, **given)
        yield Cell(suite, case, given["impl"], given["dtype"], work)


def _tiles(suite: str, options: Options) -> Iterator[Cell]:
    for case, given in sampling.tile_cases(options.device):
        name = "in use" if given["cut"] is None else "{} rows, {} warps".format(*given["cut"])
        work = partial(sampling.tile_work, device=options.device, **given)
        yield Cell(suite, case, name, given["dtype"], work)


def _models(suite: str, options: Options) -> Iterator[Cell]:
    variants = [(), *(tuple(s.split("+")) for s in options.strategies)]
    build, sides = (models.step, (320, 480, 640)) if suite == "step" else (models.predict, (640,))
    for host in options.configs or models.HOSTS:
        for side in sides:
            case = f"{host}, {side} px, batch of {options.batch}"
            for names in variants:
                for dtype in ("fp32", "bf16"):
                    work = partial(build, host, names, side, options, dtype)
                    yield Cell(suite, case, "+".join(("detrex_ext", *names)), dtype, work, host, side)
