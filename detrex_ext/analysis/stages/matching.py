"""COCO's matching on one image, for several stages and IoU thresholds at once, what became of each query, and AP.

Shape legend: L stages, S = L - 1 earlier stages, P detections of a stage, N of all images, G objects, T IoU thresholds,
K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# What a detection is matched to where it is no object's index.
FALSE, IGNORED = -1, -2
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass
class Objects:
    """Ground truth of one image: XYWH boxes in pixels, class indices, and which are crowd regions."""

    xywh_G4: np.ndarray
    class_G: np.ndarray
    crowd_G: np.ndarray


def overlaps(boxes_LP4: np.ndarray, class_LP: np.ndarray, objects: Objects) -> np.ndarray:
    """IoU of XYXY boxes with the objects of their class, 0 with others; with a crowd region, over the detection alone.

    Operations are in the order that pycocotools has them, so that values are equal to the bit.
    """
    low, size = boxes_LP4[..., None, :2].astype(np.float64), boxes_LP4[..., None, 2:] - boxes_LP4[..., None, :2]
    size = size.astype(np.float64)
    truth_low, truth_size = objects.xywh_G4[:, :2], objects.xywh_G4[:, 2:]
    sides = np.minimum(low + size, truth_low + truth_size) - np.maximum(low, truth_low)
    same = class_LP[..., None] == objects.class_G
    shared = np.where(same & (sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
    area, truth_area = size.prod(-1), truth_size.prod(-1)
    union = np.where(objects.crowd_G, area, area + truth_area - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def match(iou_LPG: np.ndarray, score_LP: np.ndarray, crowd_G: np.ndarray, thresholds_T: np.ndarray) -> np.ndarray:
    """Each detection takes, by descending score, the free object it overlaps most (of equals the last).

    One that finds no free object but a crowd region is not counted; crowd regions are never used up. Only pairs that
    overlap enough at the lowest threshold are walked through.

    Returns:
        (T, L, P) index of the object, ``FALSE`` or ``IGNORED``.
    """
    stages, size, count = iou_LPG.shape
    crowd_LP = (iou_LPG * crowd_G).max(-1, initial=0.0)
    matched_TLP = np.where(crowd_LP >= thresholds_T[:, None, None], IGNORED, FALSE)
    stage, det, obj = np.nonzero((iou_LPG >= thresholds_T.min()) & ~crowd_G)
    iou = iou_LPG[stage, det, obj]
    rank_LP = np.empty((stages, size), dtype=np.int64)
    np.put_along_axis(rank_LP, np.argsort(-score_LP, axis=1, kind="stable"), np.arange(size)[None], 1)
    order = np.lexsort((-obj, -iou, rank_LP[stage, det], stage))
    iou, det, obj = iou[order], (stage * size + det)[order], (stage * count + obj)[order]
    for flat, threshold in zip(matched_TLP.reshape(len(thresholds_T), -1), thresholds_T, strict=True):
        near = iou >= threshold
        taken: dict[int, int] = {}
        done: set[int] = set()
        for d, o in zip(det[near].tolist(), obj[near].tolist(), strict=True):
            if d not in done and o not in taken:
                done.add(d)
                taken[o] = d
        flat[list(taken.values())] = [o % count for o in taken]
    return matched_TLP


def status(matched: np.ndarray) -> np.ndarray:
    """1 where an object is matched, 0 false, -1 not counted."""
    return np.where(matched >= 0, 1, np.where(matched == FALSE, 0, -1)).astype(np.int8)


class Lineage:
    """The last stage's detections, and what the same query said of the same class at the earlier stages.

    Args:
        key_LP: names query and class; a key occurs once in a stage.
        score_LP, iou_LPG, matched_TLP: scores, ``overlaps`` and ``match`` of the detections.

    Attributes:
        score_SP: -inf where an earlier stage has no such detection.
        iou_SPG: 0 there.
        matched_TSP: ``IGNORED`` there.
    """

    def __init__(self, key_LP: np.ndarray, score_LP: np.ndarray, iou_LPG: np.ndarray, matched_TLP: np.ndarray) -> None:
        self.score_P, self.iou_PG, self.matched_TP = score_LP[-1], iou_LPG[-1], matched_TLP[:, -1]
        at_SP = np.stack([_find(keys, key_LP[-1]) for keys in key_LP])[:-1]
        rows_S1 = np.arange(len(at_SP))[:, None]
        known = at_SP >= 0
        self.score_SP = np.where(known, score_LP[rows_S1, at_SP], -np.inf)
        self.iou_SPG = np.where(known[..., None], iou_LPG[rows_S1, at_SP], 0.0)
        self.matched_TSP = np.where(known, matched_TLP[:, rows_S1, at_SP], IGNORED)

    def hits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Threshold, detection and object of each match of the last stage."""
        t, p = np.nonzero(self.matched_TP >= 0)
        return t, p, self.matched_TP[t, p]

    def faded_TP(self) -> np.ndarray:
        """Matches that an earlier stage had with no lower IoU and a higher score."""
        t, p, g = self.hits()
        better = (self.iou_SPG[:, p, g] >= self.iou_PG[p, g]) & (self.score_SP[:, p] > self.score_P[p])
        faded_TP = np.zeros(self.matched_TP.shape, dtype=bool)
        faded_TP[t, p] = better.any(0)
        return faded_TP

    def lower_TSP(self) -> np.ndarray:
        """Where an earlier stage was false too, with a lower score."""
        return (self.matched_TSP == FALSE) & (self.score_SP < self.score_P)

    def exacerbated_TP(self) -> np.ndarray:
        """False detections that were right at an earlier stage, or false with a lower score."""
        return (self.matched_TP == FALSE) & (self.lower_TSP() | (self.matched_TSP >= 0)).any(1)

    def oracle(self, thresholds_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (T, P) and overlaps (T, P, G) after the best choice of stage for each query.

        A match takes box and score of its best-scoring earlier detection (of equals the first) that overlaps the
        object enough and scores higher; a false detection takes the lowest score of its lower false ones.
        """
        lowest_TP = np.where(self.lower_TSP(), self.score_SP, np.inf).min(1, initial=np.inf)
        score_TP = np.where(self.matched_TP == FALSE, np.minimum(self.score_P, lowest_TP), self.score_P)
        iou_TPG = np.repeat(self.iou_PG[None], len(thresholds_T), 0)
        if len(self.score_SP):
            t, p, g = self.hits()
            usable = (self.iou_SPG[:, p, g] >= thresholds_T[t]) & (self.score_SP[:, p] > self.score_P[p])
            best = np.where(usable, self.score_SP[:, p], -np.inf).argmax(0)
            t, p, best = (x[usable.any(0)] for x in (t, p, best))
            score_TP[t, p], iou_TPG[t, p] = self.score_SP[best, p], self.iou_SPG[best, p]
        return score_TP, iou_TPG


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each wanted key, -1 where there is none."""
    order = np.argsort(keys)
    at = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    return np.where(keys[at] == wanted, at, -1)


def average_precision(
    score_N: np.ndarray, class_N: np.ndarray, status_TN: np.ndarray, objects_K: np.ndarray
) -> np.ndarray:
    """COCO's precision at 101 recalls, averaged.

    Args:
        score_N: of all images, in their order; equal scores keep it.
        class_N: class index of each detection.
        status_TN: 1 = found an object, 0 = false, -1 = not counted, for each threshold.
        objects_K: number of objects of each class, crowd regions left out.

    Returns:
        (T, K) in [0, 1]; NaN for a class without objects.
    """
    order = np.lexsort((-score_N, class_N))
    status_TN = status_TN[:, order]
    ends = np.searchsorted(class_N[order], np.arange(len(objects_K) + 1))
    ap_TK = np.full((len(status_TN), len(objects_K)), np.nan)
    for k in np.flatnonzero(objects_K):
        for t, status in enumerate(status_TN[:, ends[k] : ends[k + 1]]):
            ap_TK[t, k] = _of_class(status, int(objects_K[k]))
    return ap_TK


def _of_class(status: np.ndarray, objects: int) -> float:
    """Only where an object is found does recall grow, and there lie the maxima of precision."""
    counted = np.cumsum(status >= 0)[status > 0]
    found = np.arange(1, len(counted) + 1)
    precision = np.maximum.accumulate((found / counted)[::-1])[::-1]
    at = np.searchsorted(found / objects, _RECALLS)
    return float(np.append(precision, 0.0)[at].mean())
