"""``evaluation.json``: the metrics of an evaluation, and of which weights they are."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detrex_ext.checkpoint.files import write_json

logger = logging.getLogger(__name__)


def write_record(path: Path, iteration: int, key: str, results: Mapping[str, Any], best: int | None = None) -> None:
    """Writes the file whole.

    Args:
        path: of the file.
        iteration: after which was evaluated.
        key: what the metrics depend on beside the weights.
        results: nested metrics.
        best: iteration of the weights, where a training ended with its best weights in place of its last.
    """
    record = {"iteration": iteration, "key": key, "results": _nulls(results)}
    write_json(record if best is None else {**record, "best_iteration": best}, path)


def read_record(path: Path) -> dict[str, Any] | None:
    """What `write_record` wrote; None where there is no file, or, with a warning, another one."""
    if not path.is_file():
        return None
    try:
        record = as_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        record = None
    if record is None:
        logger.warning("%s is not as it was written: evaluated again", path)
    return record


def as_record(value: Any) -> dict[str, Any] | None:
    """Iteration, key and results of a record that was kept somewhere; None where it is none."""
    try:
        results = _nans(value["results"])
        flat(results)  # refuses what is no number
        record = {"iteration": int(value["iteration"]), "key": str(value["key"]), "results": results}
        best = value.get("best_iteration")
        return record if best is None else {**record, "best_iteration": int(best)}
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None


def flat(results: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics by their path, as `bbox/AP`.

    Raises:
        ValueError: one is no number.
    """
    found: dict[str, float] = {}
    for key, value in results.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}/")
            continue
        try:
            found[name] = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the evaluation must return numbers, found {name} = {value!r}") from error
    return found


def _nulls(value: Any) -> Any:
    """Nested metrics with null for what JSON cannot hold."""
    if isinstance(value, Mapping):
        return {k: _nulls(v) for k, v in value.items()}
    return float(value) if math.isfinite(value) else None


def _nans(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _nans(v) for k, v in value.items()}
    return math.nan if value is None else value
