"""Evaluation on COCO-format ground truth."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from .coco import CocoEvaluator
from .loop import inference_on_dataset, print_csv_format

__all__ = ["CocoEvaluator", "inference_on_dataset", "print_csv_format"]

_MOVED = {"StageEvaluator": "detrex_ext.analysis.stages", "QueryEvaluator": "detrex_ext.analysis.queries"}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    logging.getLogger(__name__).warning("%s.%s is now in %s", __name__, name, _MOVED[name])
    return getattr(importlib.import_module(_MOVED[name]), name)
