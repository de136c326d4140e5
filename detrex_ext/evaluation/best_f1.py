"""The score threshold with the best F1, and what is right and wrong at it.

Shape legend: G ground-truth boxes, P detections, K classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from ..data.ground_truth import BoxTable

logger = logging.getLogger(__name__)
IOU = 0.5
FALSE, FOUND, AGAIN, IGNORED = 0, 1, 2, -1
"""What a detection is: of nothing, of an object, of an object found already, not counted."""
NAMES = ("threshold", "F1", "precision", "recall", "duplicates", "never_found")


@dataclass(frozen=True)
class Point:
    """A threshold and what it gives.

    A detection is shown where its score reaches the threshold t. TP(t) of those shown found an object, FP(t) did not
    (a further detection of an object found already is one of them), and N objects are there. Then

        F1(t) = 2 TP(t) / (TP(t) + FP(t) + N),    precision = TP / (TP + FP),    recall = TP / N

    Of all t the one with the highest F1 is taken, and of several the highest. F1 is the same from the lowest score
    shown down to the next lower one (0 where there is none); the threshold is the middle between the two, so that
    rounding changes nothing. Equal scores are shown together.

    Attributes:
        threshold: NaN where no threshold shows a right detection.
        f1, precision, recall: in [0, 1]. Without an object to find F1 and recall are NaN; with no right detection F1
            and recall are 0 and precision NaN.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


def best_point(score_P: np.ndarray, kind_P: np.ndarray, objects: int) -> Point:
    """The best threshold of detections and their kinds, see :class:`Point`; ``objects`` is N."""
    counted = (kind_P != IGNORED) & np.isfinite(score_P)
    score_P, right_P = score_P[counted], kind_P[counted] == FOUND
    if not objects or not right_P.any():
        return Point(math.nan, 0.0 if objects else math.nan, math.nan, 0.0 if objects else math.nan)
    order = np.argsort(-score_P, kind="stable")
    score_P, found_P = score_P[order], np.cumsum(right_P[order])
    last = np.flatnonzero(np.diff(score_P, append=-np.inf))  # of each run of equal scores
    f1 = 2 * found_P[last] / (last + 1 + objects)
    best = int(f1.argmax())
    lower = score_P[last[best + 1]] if best + 1 < len(last) else 0.0
    shown, found = int(last[best]) + 1, int(found_P[last[best]])
    threshold = (score_P[last[best]] + max(lower, 0.0)) / 2
    return Point(float(threshold), float(f1[best]), found / shown, found / objects)


@dataclass(frozen=True)
class BestF1:
    """The best threshold of all classes together and of each; counts at the first.

    Attributes:
        point: of all classes.
        class_points: of each class.
        duplicates: detections shown of an object that another one of its class found before, by score.
        never_found: objects that no detection of their class found, whatever its score.
    """

    point: Point
    class_points: tuple[Point, ...]
    duplicates: int
    never_found: int

    def named(self, class_names: Sequence[str], task: str) -> dict[str, dict[str, float]]:
        """``{task_f1: {...}}``: ``NAMES`` (shares x 100) and, of several classes, ``threshold-<class>``; logged too."""
        p = self.point
        values = (p.threshold, 100 * p.f1, 100 * p.precision, 100 * p.recall, self.duplicates, self.never_found)
        result = dict(zip(NAMES, map(float, values), strict=True))
        several = dict(zip(class_names, self.class_points, strict=True)) if len(class_names) > 1 else {}
        shares = f"precision {result['precision']:.1f}, recall {result['recall']:.1f}"
        at = f"best F1 {result['F1']:.1f} at score threshold {p.threshold:.2f} (IoU {IOU}): {shares}, "
        if math.isnan(p.threshold):
            at, several_told = f"no detection is right at IoU {IOU}, so no score threshold is: ", ""
        else:
            several_told = _table(several)
        logger.info(
            f"{task}: {at}{self.duplicates} duplicates shown, {self.never_found} objects never found{several_told}"
        )
        return {f"{task}_f1": result | {f"threshold-{name}": x.threshold for name, x in several.items()}}


def best_f1(truth: BoxTable, found: BoxTable, num_classes: int, max_dets: int, ious: Mapping[tuple, object]) -> BestF1:
    """The best F1 at IoU 0.5, from the overlaps that a COCO evaluation has computed.

    Args:
        truth: ground truth. Crowd regions are no objects; what finds nothing but one is not counted.
        found: detections; those behind the best ``max_dets`` of an image and class are not counted.
        num_classes: K.
        max_dets: as in that evaluation.
        ious: ``(image + 1, class + 1)`` -> (P, G) of its detections, best first, and its ground truth in their order;
            empty where one of them is.
    """
    kind_P = kinds(truth, found, num_classes, max_dets, ious)
    objects_K = np.bincount(truth.class_P[~_crowds(truth)], minlength=num_classes)
    order_P = np.argsort(-found.score_P)
    score_P, class_P, kind_P = (x[order_P] for x in (found.score_P, found.class_P, kind_P))
    order_P = np.argsort(class_P, kind="stable")  # by score within a class, so that what sorts again is soon done
    rows_K = np.split(order_P, np.searchsorted(class_P[order_P], np.arange(1, num_classes)))
    points = (best_point(score_P[r], kind_P[r], int(n)) for r, n in zip(rows_K, objects_K, strict=True))
    point = best_point(score_P, kind_P, int(objects_K.sum()))
    shown = score_P >= point.threshold
    return BestF1(point, tuple(points), int((shown & (kind_P == AGAIN)).sum()),
                  int(objects_K.sum() - (kind_P == FOUND).sum()))  # fmt: skip


def kinds(
    truth: BoxTable, found: BoxTable, num_classes: int, max_dets: int, ious: Mapping[tuple, object]
) -> np.ndarray:
    """``FALSE``, ``FOUND``, ``AGAIN`` or ``IGNORED`` for each detection, by COCO's matching; see :func:`best_f1`.

    By descending score, each takes the free object of its class that it overlaps most (of equals the last).
    """
    group_P, group_G = (boxes.image_P * num_classes + boxes.class_P for boxes in (found, truth))
    order_P, order_G = np.lexsort((-found.score_P, group_P)), np.argsort(group_G, kind="stable")
    first_P = np.searchsorted(group_P[order_P], group_P[order_P])
    kind_P = np.where(np.arange(len(order_P)) - first_P < max_dets, FALSE, IGNORED)
    crowd_G = _crowds(truth)[order_G]
    group_P, group_G = group_P[order_P], group_G[order_G]
    here_G = np.searchsorted(group_P, group_G, side="right") > np.searchsorted(group_P, group_G)
    both_N = np.unique(group_G[here_G])
    start_NP, start_NG = (np.searchsorted(of, both_N) for of in (group_P, group_G))
    tables = [np.asarray(ious[g // num_classes + 1, g % num_classes + 1]) for g in both_N.tolist()]
    flat = np.concatenate([np.zeros(0), *(table.ravel() for table in tables)])
    sizes_N = np.array([table.size for table in tables], dtype=np.int64)
    begins_N = np.cumsum(sizes_N) - sizes_N
    near = np.flatnonzero(flat >= IOU)
    n = np.searchsorted(begins_N, near, side="right") - 1
    widths_N = np.array([table.shape[1] for table in tables], dtype=np.int64)
    row, column = np.divmod(near - begins_N[n], widths_N[n])
    p, g = start_NP[n] + row, start_NG[n] + column
    rank = np.lexsort((-g, -flat[near], crowd_G[g], p))
    kind, taken = kind_P.tolist(), [False] * len(order_G)
    for det, obj, crowd in zip(*(x[rank].tolist() for x in (p, g, crowd_G[g])), strict=True):
        if kind[det] != FOUND:
            kind[det] = IGNORED if crowd else AGAIN if taken[obj] else FOUND
            taken[obj] = not crowd
    back_P = np.empty_like(kind_P)
    back_P[order_P] = kind
    return back_P


def _crowds(truth: BoxTable) -> np.ndarray:
    return np.zeros(len(truth.image_P), bool) if truth.crowd_P is None else truth.crowd_P.astype(bool)


def _table(points: Mapping[str, Point], shown: int = 20) -> str:
    """The classes with the lowest F1 first; "" where there are none."""
    if not points:
        return ""
    by_f1 = sorted(points.items(), key=lambda item: math.inf if math.isnan(item[1].f1) else item[1].f1)
    rows = [(name, x.threshold, 100 * x.f1, 100 * x.precision, 100 * x.recall) for name, x in by_f1[:shown]]
    more = f"\n... and {len(by_f1) - shown} classes with a better F1" if len(by_f1) > shown else ""
    head = ["category", *NAMES[:4]]
    return "\n" + tabulate(rows, head, tablefmt="pipe", floatfmt=("", ".2f", ".1f", ".1f", ".1f")) + more
