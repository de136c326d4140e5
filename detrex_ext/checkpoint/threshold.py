"""The score from which on a detection is shown: chosen by an evaluation, kept in its checkpoint, used to predict."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .files import write_checkpoint
from .unpickling import read_torch
from .weights import WORDS, Weights, evaluated_by

logger = logging.getLogger(__name__)
KEY = "threshold"
"""Of a checkpoint: a dict of ``score``, ``F1``, ``iteration`` (from 0), and ``classes``, scores by class name."""
DEFAULT = 0.5
_TASK, _CLASS = "_f1", "threshold-"


@dataclass(frozen=True)
class Threshold:
    """Least scores, and where they are from.

    Attributes:
        score: of all classes.
        classes: by class name; other classes have ``score``.
        origin: in words.
        chosen: whether an evaluation chose them.
    """

    score: float = DEFAULT
    classes: Mapping[str, float] = field(default_factory=dict)
    origin: str = "the default: the checkpoint holds none"
    chosen: bool = False

    def of(self, class_names: Sequence[str]) -> list[float]:
        """For each class."""
        return [self.classes.get(name, self.score) for name in class_names]

    def __str__(self) -> str:
        return f"{self.score:.4g} ({self.origin})"


def threshold_of(weights: Weights) -> Threshold:
    """The threshold that goes with weights: what their evaluation found best, else the default.

    What is no threshold is ignored with a line in the log, as is one of other weights of the same file.
    """
    saved = weights.data.get(KEY)
    if saved is None:
        return Threshold()
    if not isinstance(saved, Mapping) or not _is_score(saved.get("score")):
        shown = saved.get("score") if isinstance(saved, Mapping) else saved
        logger.warning("%s: its threshold is %.80r, expected a score in [0, 1]: ignored", weights.path, shown)
        return Threshold(origin="the default: the checkpoint's is none")
    evaluated = evaluated_by(weights.data)
    if evaluated != weights.part:
        return Threshold(origin=f"the default: the checkpoint's is of its {WORDS.get(evaluated, 'other weights')}")
    given = saved.get("classes")
    classes = given if isinstance(given, Mapping) else {}
    sound = {name: float(score) for name, score in classes.items() if isinstance(name, str) and _is_score(score)}
    if len(sound) < len(classes) or (given is not None and given is not classes):
        logger.warning("%s: some of its thresholds of classes are no scores in [0, 1]: ignored", weights.path)
    return Threshold(float(saved["score"]), sound, f"best F1 of the evaluation{_when(saved.get('iteration'))}", True)


def from_results(results: Mapping[str, Any], iteration: int) -> dict[str, Any] | None:
    """What a checkpoint keeps of an evaluation; None where it found no threshold.

    Args:
        results: metrics by task; the first task that ends with ``_f1`` is of the model's own answers.
        iteration: from 0, whose weights were evaluated.
    """
    values = next((v for task, v in results.items() if task.endswith(_TASK) and isinstance(v, Mapping)), {})
    if not _is_score(values.get(KEY)):
        return None
    classes = {k.removeprefix(_CLASS): v for k, v in values.items() if k.startswith(_CLASS) and _is_score(v)}
    return {"score": values[KEY], "F1": values.get("F1"), "iteration": iteration, "classes": classes}


def put_threshold(path: str | os.PathLike, found: Mapping[str, Any] | None) -> None:
    """Writes the threshold into a checkpoint of ours that is there already; all else in it stays."""
    data = read_torch(os.fspath(path))
    if data.get(KEY) == found:
        return
    data.pop(KEY, None)
    write_checkpoint(data if found is None else {**data, KEY: dict(found)}, path)


def _is_score(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= 1


def _when(iteration: Any) -> str:
    return f" after {iteration + 1} iterations" if isinstance(iteration, int) else ""
