"""Detections that an evaluation has kept in COCO's results format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from ..data.ground_truth import BoxTable, GroundTruth
from ..errors import UserError


def read_results(path: str | Path, truth: GroundTruth) -> BoxTable:
    """The detections of a file.

    Args:
        path: a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``.
        truth: whose images and categories they are of.

    Raises:
        UserError: it is no such file, or of other data.
    """
    images = {image: i for i, image in enumerate(truth.image_ids)}
    classes = {given: k for k, given in enumerate(truth.classes.ids)}
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        flat = [(images[r["image_id"]], classes[r["category_id"]], *map(float, r["bbox"]), float(r["score"]))
                for r in rows]  # fmt: skip
        table = np.array(flat, dtype=np.float64).reshape(-1, 7)
    except (OSError, ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(f"{path}: no detections on {truth.json} in COCO's results format ({reason})") from error
    if not all(map(math.isfinite, table.sum(0))):
        raise UserError(f"{path}: boxes or scores that are not finite")
    return BoxTable(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6])
