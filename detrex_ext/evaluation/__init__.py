"""Evaluation on COCO-format ground truth."""

from .coco import CocoEvaluator
from .loop import inference_on_dataset, print_csv_format
from .queries import QueryEvaluator
from .stages import StageEvaluator

__all__ = ["CocoEvaluator", "QueryEvaluator", "StageEvaluator", "inference_on_dataset", "print_csv_format"]
