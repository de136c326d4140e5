"""Why a detector finds next to nothing: the likeliest cause, from its predictions and the course of its losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.ground_truth import GroundTruth
from .detections import Detections
from .folder import RunFacts
from .stages import StageLook

NEAR_ZERO = 1.0
"""AP (x 100) below which the cause is looked for."""
OVERFIT_AP = 90.0
"""AP (x 100) on the images of ``train.overfit`` that a sound training passes."""


@dataclass(frozen=True)
class Cause:
    """A cause: what it is, what shows it, what to do."""

    what: str
    shown_by: str
    to_do: str

    def __str__(self) -> str:
        return f"{self.what}: {self.shown_by}; {self.to_do}"


def find_causes(
    facts: RunFacts,
    truth: GroundTruth | None,
    detections: Detections | None,
    look: StageLook | None,
    least_ap: float = NEAR_ZERO,
) -> list[Cause]:
    """The causes that speak for themselves, likeliest first; [] where AP is no lower than it may be.

    Args:
        facts: of the run.
        truth: the validation data.
        detections: on it.
        look: at the stages on some of its images. What is None is not known.
        least_ap: AP (x 100) from which on nothing is looked for but classes that are mixed up.
    """
    ap = ap_of(facts)
    mixed = _classes(detections, look)
    if ap is not None and ap >= least_ap:
        return mixed
    if ap is None and detections is None:
        return _diverged(facts)
    found = [*_boxes(truth), *_diverged(facts), *mixed, *_collapsed(look)]
    return found or [*_scores(detections, look), *_short(facts, look)]


def ap_of(facts: RunFacts) -> float | None:
    """AP of the last evaluation, x 100; None where there is none."""
    value = facts.results.get("bbox", {}).get("AP", math.nan)
    return None if math.isnan(value) else value


def _boxes(truth: GroundTruth | None) -> list[Cause]:
    boxes = None if truth is None else truth.boxes
    if boxes is None or not len(boxes.xywh_P4):
        text = "the validation file has no boxes"
        return [Cause("nothing to find", text, "name the file with annotations as dataset.val_json")] if truth else []
    side = float(np.median(boxes.xywh_P4[:, 2:].max(1)))
    if side > 2:
        return []
    return [Cause("boxes that are no pixels", f"the middle one of the validation file is {side:.3g} pixels long",
                  "boxes are [x, y, width, height] in pixels: run detrex_ext check")]  # fmt: skip


def _diverged(facts: RunFacts) -> list[Cause]:
    loss = [value for _, value in facts.series.get("total_loss", ())]
    if facts.non_finite:
        shown = f"its batch is in {facts.non_finite.name} (optimizer.lr={_shown(facts.number('optimizer.lr'))})"
        replay = f"python -m detrex_ext train --replay {facts.non_finite} says where; a lower learning rate may do"
        return [Cause("a loss was not finite", shown, replay)]
    if len(loss) < 3:
        return []
    begin, end, least = loss[0], float(np.median(loss[-3:])), min(loss)
    rate, before = facts.number("optimizer.lr"), facts.changed.get("optimizer.lr", ("", ""))[0]
    raised = _ratio(rate, before)
    if end < 0.9 * begin and end < 3 * least and raised < 30:
        return []
    if end < 0.9 * begin and raised < 30:
        course = f"the loss rose again, from {least:.3g} to {end:.3g}"
    else:
        course = f"the loss was {begin:.3g} at first and is {end:.3g} at the end"
    if raised >= 3:
        return [Cause("the learning rate is too high", f"{course}; optimizer.lr={rate:g} is {raised:,.0f} times the "
                      f"{before} of the shipped config", f"optimizer.lr={before}")]  # fmt: skip
    lower = "a lower one" if rate is None else f"optimizer.lr={rate / 10:g}"
    return [Cause("the training did not get anywhere", f"{course} (optimizer.lr={_shown(rate)})",
                  f"try {lower}, and train.overfit=8, which shows whether the model can learn at all")]  # fmt: skip


def _ratio(rate: float | None, before: str) -> float:
    try:
        return rate / float(before) if rate else 1.0
    except (ValueError, ZeroDivisionError):
        return 1.0


def _classes(detections: Detections | None, look: StageLook | None) -> list[Cause]:
    """Objects are found, but their classes are not told: labels that do not say what is on the image."""
    if detections is None or len(detections.class_names) < 2 or not detections.num_objects:
        return []
    own, alike = detections.area(), detections.area(any_class=True)
    table = detections.confusion()[:-1, :-1]
    right = float(np.trace(table) / table.sum()) if table.sum() else math.nan
    if look is not None and not table.sum():
        right = look.right_share()
    share_K = detections.objects_K / detections.num_objects
    chance = float(max(share_K.max(), (share_K**2).sum()))
    if alike < 0.2 or own > 0.6 * alike or not right < chance + 0.5 * (1 - chance):
        return []
    aps = f"whatever the class, AP50 is {100 * alike:.0f}, with the class {100 * own:.0f}"
    shown = (f"{aps}; of the objects found {100 * right:.0f} % get their class, where the commonest class would be "
             f"{100 * chance:.0f} %")  # fmt: skip
    if (swapped := _swapped(table, detections.class_names)) is not None:
        return [Cause("classes are exchanged", f"{shown}; {swapped}",
                      "compare the categories of the training and the validation file, ids and names")]  # fmt: skip
    return [Cause("labels that do not say what is on the images", shown,
                  "look at the training labels: detrex_ext analyze samples draws them on their images")]  # fmt: skip


def _swapped(table: np.ndarray, names: Sequence[str]) -> str | None:
    """Where most classes are told as one other class each, which."""
    most_K = table.argmax(1)
    sizes = table.sum(1)
    sure = (table.max(1) > 0.6 * sizes) & (sizes > 0)
    other = sure & (most_K != np.arange(len(most_K)))
    if other.sum() < max(2, 0.6 * (sizes > 0).sum()) or len(set(most_K[other].tolist())) < other.sum():
        return None
    pairs = [f"{names[k]} is told as {names[most_K[k]]}" for k in np.flatnonzero(other)[:3].tolist()]
    return ", ".join(pairs)


def _collapsed(look: StageLook | None) -> list[Cause]:
    if look is None or not look.same:
        return []
    same, frozen = float(np.mean(look.same)), float(np.mean(look.frozen)) if look.frozen else 0.0
    if same > 0.5:
        return [Cause("queries have collapsed", f"{100 * same:.0f} % of the boxes of an image are the same as another",
                      "the learning rate may be too high, or the training too short")]  # fmt: skip
    if frozen > 0.8:
        shown = f"{100 * frozen:.0f} % of the boxes are the same on every image"
        return [Cause("the model does not look at the image", shown, "train longer, or with a lower learning rate")]
    return []


def _scores(detections: Detections | None, look: StageLook | None) -> list[Cause]:
    if look is None or not look.looked or look.recall_L()[-1] < 0.5:
        return []
    low, middle, high = look.score_range()
    recall = 100 * look.recall_L()[-1]
    predicted = "" if detections is None else _one_class(detections)
    text = f"a query is at {recall:.0f} % of the objects, and scores are {low:.2g} to {high:.2g}, middle {middle:.2g}"
    return [Cause("boxes are found, their scores do not tell them from others", text + predicted,
                  "train longer; where that does not help, look at the weight of the class loss")]  # fmt: skip


def _one_class(detections: Detections) -> str:
    best = detections.score_P.argsort()[-1000:]
    counts = np.bincount(detections.class_P[best], minlength=len(detections.class_names))
    if len(counts) < 2 or counts.max() < 0.9 * counts.sum():
        return ""
    return f"; {100 * counts.max() / counts.sum():.0f} % of them are {detections.class_names[int(counts.argmax())]}"


def _short(facts: RunFacts, look: StageLook | None) -> list[Cause]:
    loss = [value for _, value in facts.series.get("total_loss", ())]
    known = look is not None and look.looked
    near = f"; a query is at {100 * look.recall_L()[-1]:.0f} % of the objects" if known else ""
    if len(loss) < 3:
        lines = "1 line" if len(loss) == 1 else f"{len(loss)} lines"
        return [Cause("hardly trained", f"metrics.json has {lines} of losses{near}", "train longer")]
    fall = 1 - float(np.median(loss[-3:])) / loss[0]
    return [Cause("not trained for long enough", f"the loss fell by {100 * fall:.0f} % from {loss[0]:.3g}{near}",
                  "train longer; train.overfit=8 shows in minutes whether the model can learn at all")]  # fmt: skip


def _shown(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:g}"
