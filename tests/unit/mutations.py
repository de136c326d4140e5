"""Annotation files spoiled by chance, and what `check` and a training say of them."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

from detrex_ext.data import CocoDataset, check_before_training, check_dataset
from detrex_ext.data.limits import Limit
from detrex_ext.errors import UserError

LIMITS = [Limit("more_objects_than_queries", 2, "model.queries.num_queries")]
_VALUES = [
    None, True, False, 0, 1, -1, 5, 6, 5.0, 1.5, 1e308, 10**400, -0.0, float("nan"), float("inf"), "", "5", "10", "5.0",
    "x", "\x00", "\ud800", "a" * 5000, "../../etc/passwd", "images\\1.png", "C:\\x\\2.PNG", "https://h/3.png?q#f",
    "0.PNG", [], {}, [5], {"id": 5}, [1, 2, 3, 4],
    [0.1, 0.2, 0.3, 0.4], [30, 20, 50, 40], [float("nan")] * 4, ["1", 2, 3, 4],
    [1e308] * 4, [-5, -5, 3, 3], [[1], 2, 3, 4],
]  # fmt: skip


def spoiled(data: dict, seed: int) -> dict:
    """A copy of an annotation file with one to four values of it changed, taken away or repeated."""
    rng, data = random.Random(seed), copy.deepcopy(data)
    for _ in range(rng.randint(1, 4)):
        holder = data
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.85:
                holder = holder[key]
                continue
            what = rng.random()
            if what < 0.1:
                del holder[key]
            elif what < 0.2 and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            else:
                holder[key] = copy.deepcopy(rng.choice(_VALUES))
            break
    return data


def write_json(path: Path, data: dict) -> None:
    """As `json.dump`, which writes what is no number too."""
    path.write_text(json.dumps(data))


def judged_by_check(path: Path, images: Path | None = None) -> set[str]:
    """Kinds of errors that `check` finds; {"refused"} where it cannot read the set at all."""
    try:
        report = check_dataset(path, images, limits=LIMITS)
    except UserError:
        return {"refused"}
    report.text()
    json.dumps(report.to_dict())
    return {finding.kind for finding in report.errors}


def judged_by_training(path: Path, images: Path | None = None) -> str:
    """The message with which a training refuses the set, "" where it does not."""
    try:
        check_before_training(CocoDataset(path, images), limits=LIMITS)
    except UserError as error:
        return str(error)
    return ""
