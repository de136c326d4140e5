"""What suits a set: the size that its images are resized to, from what is on them; steps, from how many there are."""

from __future__ import annotations

import math

import numpy as np

from detrex_ext.data.ground_truth import GroundTruth

_MEDIAN, _SMALL = 48.0, 24.0  # pixels that the median and the 10th percentile of objects get, in sqrt(area)
_LEAST, _MOST, _STEP = 192, 512, 32
_LONGEST = 2.0  # of the long side over the short one
_EPOCHS, _FEWEST_STEPS, _MOST_STEPS = 60, 1000, 5000


def fitting_size(truth: GroundTruth) -> tuple[int, int]:
    """(short edge, longest long edge) in which the objects of a set are large enough, and images no larger than so.

    The median object becomes 6 cells of a map of stride 8, the 10th percentile 3, within 192 and 512 pixels and
    multiples of 32. The long edge holds 95 of 100 images at that short edge, or twice the short one.

    Args:
        truth: whose annotations are used; images without a size, and boxes that are not learned, are left out.
    """
    sizes_N2 = np.array([(i["height"] or 0, i["width"] or 0) for i in truth.images], dtype=np.float64).reshape(-1, 2)
    known_N = (sizes_N2 > 0).all(axis=1)
    short, aspect = float(_LEAST), 4 / 3
    boxes = truth.boxes
    if boxes is not None:
        used_P = boxes.learned_P & known_N[boxes.image_P]
        xywh_P4, edge_P = boxes.xywh_P4[used_P], sizes_N2[boxes.image_P[used_P]].min(axis=1, initial=np.inf)
        shares_P = np.sqrt(np.clip(xywh_P4[:, 2], 0, None) * np.clip(xywh_P4[:, 3], 0, None)) / edge_P
        shares_P = shares_P[np.isfinite(shares_P) & (shares_P > 0)]
        if len(shares_P):
            small, median = np.percentile(shares_P, (10, 50))
            short = max(_MEDIAN / median, _SMALL / small)
    if known_N.any():
        sizes_N2 = sizes_N2[known_N]
        aspect = float(np.percentile(sizes_N2.max(axis=1) / sizes_N2.min(axis=1), 95))
    edge = min(max(_up(min(short, _MOST)), _LEAST), _MOST)
    return edge, _up(edge * min(aspect, _LONGEST))


def fitting_length(images: int, batch: int) -> int:
    """Steps of a training: 60 epochs, within 1,000 and 5,000 steps.

    Args:
        images: of the training data.
        batch: images of a step.
    """
    return min(max(math.ceil(_EPOCHS * images / batch), _FEWEST_STEPS), _MOST_STEPS)


def _up(pixels: float) -> int:
    return math.ceil(pixels / _STEP - 1e-9) * _STEP
