"""COCO's metrics from ground truth and detections held as arrays.

Shape legend: G ground-truth boxes, P detections; precision arrays are (T IoU thresholds, R recalls, K classes, A areas,
M detection limits).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
from tabulate import tabulate

from ..data.ground_truth import BoxTable, uncollected
from .best_f1 import BestF1, best_f1

logger = logging.getLogger(__name__)

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass
class CocoMetrics:
    """Shares in [0, 1]; NaN where there is nothing to measure.

    Attributes:
        ap: AP, AP50, AP75, APs, APm, APl.
        ar: recall at 1, 10 and ``max_dets`` detections, then of small, medium and large objects.
        class_ap_K: AP of each class.
        f1: the best score threshold.
    """

    ap: np.ndarray
    ar: np.ndarray
    class_ap_K: np.ndarray
    f1: BestF1

    def named(self, class_names: Sequence[str], max_dets: int, task: str) -> dict[str, float]:
        """AP by area and, of several classes, ``AP-<class>``, x 100; the log has them and recall as tables."""
        result = {name: 100 * float(v) for name, v in zip(AP_NAMES, self.ap, strict=True)}
        limits = ("AR1", "AR10", f"AR{max_dets}", "ARs", "ARm", "ARl")
        recall = {name: 100 * float(v) for name, v in zip(limits, self.ar, strict=True)}
        logger.info("Evaluation results for %s:\n%s\n\n%s", task, _row(result), _row(recall))
        if len(class_names) > 1:
            per_class = {name: 100 * float(v) for name, v in zip(class_names, self.class_ap_K, strict=True)}
            logger.info("Per-category %s AP:\n%s", task, _columns(per_class))
            result |= {f"AP-{name}": value for name, value in per_class.items()}
        return result


def fast_available() -> bool:
    """Whether faster-coco-eval is installed."""
    return importlib.util.find_spec("faster_coco_eval") is not None


def coco_metrics(
    truth: BoxTable, found: BoxTable, num_images: int, num_classes: int, max_dets: int = 100, fast: bool | None = None
) -> CocoMetrics:
    """COCO's box metrics over all images and classes.

    Args:
        truth: ground truth.
        found: detections.
        num_images: image indices run below it.
        num_classes: class indices run below it.
        max_dets: detections counted per image and class, best first.
        fast: use faster-coco-eval (True), pycocotools (False), or the first if installed (None). Both give the same.
    """
    with uncollected():
        fast = fast_available() if fast is None else fast
        evaluator = _evaluate(truth, found, num_images, num_classes, max_dets, fast)
        f1 = best_f1(truth, found, num_classes, max_dets, evaluator.ious)
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    thresholds = np.asarray(evaluator.params.iouThrs)
    at50, at75 = (np.isclose(thresholds, t) for t in (0.5, 0.75))
    ap = [precision[:, :, :, 0, -1], precision[at50, :, :, 0, -1], precision[at75, :, :, 0, -1]]
    ap += [precision[:, :, :, area, -1] for area in (1, 2, 3)]
    ar = [recall[:, :, 0, limit] for limit in range(3)] + [recall[:, :, area, -1] for area in (1, 2, 3)]
    per_class = [precision[:, :, k, 0, -1] for k in range(num_classes)]
    means = (np.array([_mean(x) for x in parts]) for parts in (ap, ar, per_class))
    return CocoMetrics(*means, f1)


def _evaluate(
    truth: BoxTable, found: BoxTable, num_images: int, num_classes: int, max_dets: int, fast: bool
) -> Any:
    package = importlib.import_module("faster_coco_eval" if fast else "pycocotools.coco")
    # Both libraries talk on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        indexed = [_index(package, boxes, num_images, num_classes) for boxes in (truth, found)]
        if fast:
            evaluator = package.COCOeval_faster(*indexed, iouType="bbox", print_function=_silent)
        else:
            evaluator = importlib.import_module("pycocotools.cocoeval").COCOeval(*indexed, iouType="bbox")
        evaluator.params.maxDets = [1, 10, max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _index(package: ModuleType, boxes: BoxTable, num_images: int, num_classes: int) -> Any:
    """A COCO object of arrays. Ids start at 1: both libraries take an object of id 0 for "not matched"."""
    score = np.ones(len(boxes.image_P)) if boxes.score_P is None else boxes.score_P
    area = boxes.xywh_P4[:, 2] * boxes.xywh_P4[:, 3] if boxes.area_P is None else boxes.area_P
    crowd = np.zeros(len(score), dtype=np.int64) if boxes.crowd_P is None else boxes.crowd_P.astype(np.int64)
    columns = (boxes.image_P + 1, boxes.class_P + 1, boxes.xywh_P4, score, area, crowd)
    coco = package.COCO()
    coco.dataset = {
        "images": [{"id": i + 1} for i in range(num_images)],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(num_classes)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "score": s, "area": a, "iscrowd": c}
            for i, (image, k, box, s, a, c) in enumerate(zip(*(x.tolist() for x in columns), strict=True), 1)
        ],
    }
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float:
    """Mean of what was measured (-1 marks what was not)."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")


def _silent(*_: object) -> None:
    pass


def _row(values: Mapping[str, float]) -> str:
    """Names over metrics, as detectron2 logs them."""
    return tabulate([values.values()], values, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")


def _columns(values: Mapping[str, float], pairs: int = 3) -> str:
    """Names beside metrics, some ``pairs`` in a row, as detectron2 logs them."""
    pairs = min(pairs, len(values))
    rows = [list(chain(*list(values.items())[i : i + pairs])) for i in range(0, len(values), pairs)]
    return tabulate(rows, ["category", "AP"] * pairs, tablefmt="pipe", floatfmt=".3f", numalign="left")
