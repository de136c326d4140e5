"""Whether the evaluation of a training gives the metric that its best weights are chosen by."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from detrex_ext.errors import UserError

_SHOWN = 24


def check_metric(
    metric: str, evaluator: Any, prefixes: Sequence[str] = ("",), more: Sequence[str] = ()
) -> None:
    """Refuses a metric that will never be there, before anything is trained.

    Args:
        metric: ``train.best_checkpoint.metric``.
        evaluator: what says by ``metric_names()`` what it gives; any is taken where it does not say.
        prefixes: of the names, where several kinds of weights are evaluated.
        more: names beside the evaluator's.

    Raises:
        UserError: there is no such metric; names those there are.
    """
    if not hasattr(evaluator, "metric_names"):
        return
    names = [f"{prefix}{name}" for prefix in prefixes for name in (*evaluator.metric_names(), *more)]
    if any(fnmatchcase(metric, name) for name in names if "*" in name) or metric in names:
        return
    near = difflib.get_close_matches(metric, names, 3)
    hint = f"\n  did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")
    raise UserError(
        f"train.best_checkpoint.metric={metric}: the evaluation gives no such metric{hint}\n  it gives: {listed}"
    )


def content_of(evaluator: Any) -> str:
    """What tells the ground truth of one evaluator from that of another, wherever the files lie."""
    boxes = getattr(getattr(evaluator, "truth", None), "boxes", None)
    if boxes is None:
        return str(getattr(evaluator, "json", ""))
    values = (boxes.image_P, boxes.class_P, boxes.xywh_P4)
    return hashlib.sha1(b"".join(value.tobytes() for value in values)).hexdigest()
