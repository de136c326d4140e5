"""Evaluation on COCO-format ground truth."""

from .coco import CocoEvaluator
from .loop import inference_on_dataset, print_csv_format

__all__ = ["CocoEvaluator", "inference_on_dataset", "print_csv_format"]
