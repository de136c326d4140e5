"""What becomes of each query from stage to stage of a decoder."""

from .errors import COCO_THRESHOLDS, StageErrors
from .evaluator import REPORT_FILE, StageEvaluator, stage_predictions
from .matching import Objects
from .report import StageReport, StageRow

__all__ = [
    "COCO_THRESHOLDS",
    "REPORT_FILE",
    "Objects",
    "StageErrors",
    "StageEvaluator",
    "StageReport",
    "StageRow",
    "stage_predictions",
]
