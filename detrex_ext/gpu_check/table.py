"""The steps of the check, their order and their limits. Nothing here imports torch: a process that only waits is light.

A step names a function ``cases(options) -> list[Case]``; a case gives a row, ``{"held": ..., "note": ..., values}``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
NOT_HERE = "not here: "
STEPS_OF_THE_CHECK = "detrex_ext.gpu_check.table:STEPS"


class NotHere(Exception):
    """A case that makes no sense on this machine, and why: it is told, and does not fail the check."""


@dataclass(frozen=True)
class Options:
    """What all cases are told.

    Attributes:
        device: "cuda", or "cpu" to run the same logic with the CPU in the GPU's place.
        quick: small sizes and few cases.
        commit: of the code, for the report; "" = what git says.
        match: only cases whose name has this in it.
    """

    device: str = "cuda"
    quick: bool = False
    commit: str = ""
    match: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether it is one that is asked."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Case:
    """One question of a step.

    Attributes:
        name: unique in the step.
        run: gives the row. What it raises fails the case, :class:`NotHere` skips it.
    """

    name: str
    run: Callable[[], Row]


@dataclass(frozen=True)
class Step:
    """A group of cases.

    Attributes:
        name: on the command line and in the report.
        question: what it asks, for people.
        where: ``module:function`` that makes its cases.
        seconds: limit of the step.
        case_seconds: limit of one case.
        fresh: begins a new process; the other steps share the one before them, until it ends or has to be ended.
        judged: whether it has an answer that is wrong; a step of measurements has none.
    """

    name: str
    question: str
    where: str
    seconds: float
    case_seconds: float = 60.0
    fresh: bool = False
    judged: bool = True


def found(held: bool | None, note: str = "", **values: Any) -> Row:
    """A row: whether what is asked holds (None: a measurement, or not asked here), why, and figures by name."""
    # JSON has no word for what is no number
    plain = {name: str(x) if isinstance(x, float) and not math.isfinite(x) else x for name, x in values.items()}
    return {"held": held, "note": note, **plain}


def resolve(where: str) -> Any:
    """What ``module:name`` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


_HERE = "detrex_ext.gpu_check"
STEPS = (
    Step("environment", "Which card, driver and versions are these, and how fast are they at products and copies?",
         f"{_HERE}.environment:cases", 40),
    Step("sampling", "Do the sampling kernels equal fp64, forward and in three gradients, at any size and type?",
         f"{_HERE}.sampling_cases:cases", 110),
    Step("steps", "Does a training step of every host with every strategy equal the CPU's, and is it finite in bf16?",
         f"{_HERE}.steps:cases", 140),
    Step("matching", "Does the solver of a GPU find SciPy's pairs?", f"{_HERE}.matching_cases:cases", 40),
    Step("waits", "How often does a step wait for the GPU, and where?", f"{_HERE}.waits:cases", 45),
    Step("overflow", "Does training in fp16 go on after gradients overflow?", f"{_HERE}.failures:overflow", 45),
    Step("memory", "Does a step that does not fit say what to do, and can the next one run?",
         f"{_HERE}.failures:memory", 45),
    Step("resume", "Is a run that is killed and resumed the one that was not?", f"{_HERE}.resume:cases", 75, 75),
    Step("kernels", "How fast is sampling, by backend and type?", f"{_HERE}.speed:kernels", 40, 30, fresh=True,
         judged=False),
    Step("training", "Images a second, kernels a step, share of the time that the GPU is busy, peak memory",
         f"{_HERE}.speed:training", 100, 40, judged=False),
    Step("strategies", "What does a step cost with a strategy, of the bare one?",
         f"{_HERE}.speed:strategies", 60, 40, judged=False),
    Step("inference", "Images a second of prediction, kernel by kernel and by CUDA graphs",
         f"{_HERE}.predicting:inference", 45, 30, judged=False),
    Step("compiled", "The same compiled, where that works", f"{_HERE}.predicting:compiled", 120, 120, fresh=True,
         judged=False),
)  # fmt: skip
