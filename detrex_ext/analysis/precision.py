"""Average precision from detections that are matched already.

Shape legend: N detections, T IoU thresholds, K classes.
"""

from __future__ import annotations

import numpy as np

_RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(
    score_N: np.ndarray, class_N: np.ndarray, status_TN: np.ndarray, objects_K: np.ndarray
) -> np.ndarray:
    """COCO's precision at 101 recalls, averaged.

    Args:
        score_N: of all pictures, in their order; equal scores keep it.
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
