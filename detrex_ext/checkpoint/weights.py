"""Which weights a run or a checkpoint is used with: one rule for training, evaluating, predicting and converting.

Where averaged weights exist they are evaluated, the best checkpoint is chosen by them, and they are predicted with;
``average=false`` asks for the trained ones. A checkpoint states which of the two its training evaluated, and is used
with these unless it is asked otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detrex_ext.errors import UserError

from .contents import AVERAGE, EVALUATED, TRAINED
from .files import read_checkpoint
from .foreign import AVERAGED
from .load import part_of
from .run_folder import RunFolder, Saved

logger = logging.getLogger(__name__)
AVERAGE_KEY = "train.model_ema.average"
HOLDS = "holds"
"""Key of a converted checkpoint, whose one part may be another's average: which part of that it was."""
WORDS = {TRAINED: "trained weights", AVERAGE: "averaged weights"}


@dataclass(frozen=True)
class Weights(Saved):
    """A checkpoint in memory and which of its parts is used: ``model`` or ``ema_state``."""

    part: str

    def state(self) -> Mapping[str, Any]:
        """Tensors by name."""
        return part_of(self.data, self.part, self.path)

    def kind(self) -> str:
        """``model`` or ``ema_state``; of a converted file what it was before."""
        held = self.data.get(HOLDS)
        return held if self.part == TRAINED and isinstance(held, str) and held in WORDS else self.part

    def __str__(self) -> str:
        iteration = self.data.get("iteration")
        after = f", after {iteration + 1} iterations" if isinstance(iteration, int) else ""
        return f"{self.path}{after}, {WORDS[self.kind()]}"


def find_weights(source: str | os.PathLike | RunFolder, average: bool | None = None) -> Weights:
    """The weights that a run folder or a checkpoint is used with; a line in the log names them.

    Args:
        source: run folder (its newest checkpoint), or a file, local or remote.
        average: True = the averaged weights, False = the trained ones, None = those that the training evaluated, which
            are the averaged ones where there are any.

    Raises:
        UserError: no checkpoint there, or none that can be read; no averaged weights in it.
    """
    if not isinstance(source, RunFolder) and os.path.isdir(source):
        source = RunFolder(source)
    saved = _newest(source) if isinstance(source, RunFolder) else Saved(os.fspath(source), read_checkpoint(source))
    weights = Weights(saved.path, saved.data, _part(saved, average))
    logger.info("weights: %s", weights)
    return weights


def rule(averages: bool, part: str) -> str:
    """A line for the log: which weights a training evaluates, and what that means.

    Args:
        averages: whether there are averaged weights.
        part: which part of its checkpoints is evaluated.
    """
    if not averages:
        return "no averaged weights (train.model_ema.enabled=false)"
    other = f"the trained ones: {AVERAGE_KEY}=false" if part == AVERAGE else f"{AVERAGE_KEY}=false"
    return f"{WORDS[part]} are evaluated, model_best.pth is chosen by them, and they are predicted with ({other})"


def evaluated_by(data: Mapping[str, Any]) -> str:
    """Which part of a checkpoint its training evaluated; one of before the key told it in its config alone."""
    old = "use_ema_weights_for_eval_only: true" in str(data.get("config"))
    return data.get(EVALUATED) or (AVERAGE if old and AVERAGE in data else TRAINED)


def _newest(folder: RunFolder) -> Saved:
    saved = folder.newest()
    if saved is None:
        found = ", ".join(sorted(p.name for p in folder.path.glob("*"))[:8]) or "nothing"
        raise UserError(
            f"{folder.path}: no checkpoint of a training; it holds {found}\n"
            "  name a run folder of train_net.py, or a .pth file"
        )
    return saved


def _part(saved: Saved, average: bool | None) -> str:
    if average is None:
        stated = saved.data.get(EVALUATED)
        return stated if stated in WORDS and stated in saved.data else AVERAGE if saved.data.get(AVERAGE) else TRAINED
    if average and not any(saved.data.get(name) for name in AVERAGED):
        raise UserError(
            f"checkpoint {saved.path}: holds no averaged weights ('{AVERAGE}')\n"
            "  the trained ones: average=False, or --no-average"
        )
    return AVERAGE if average else TRAINED
