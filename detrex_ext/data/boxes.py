"""What is wrong with the boxes of an annotation file, one by one and as a whole.

Shape legend: P boxes, N images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# A box may pass the border by this much (rounding of the tool that wrote it) without being reported, in pixels.
_BORDER_TOLERANCE = 0.5
# COCO measures no object that is larger, in pixels of area.
_MAX_AREA = 1e5**2
# Fractions of the image are below this; a box of pixels that is, lies in the very corner and is no larger than this.
_FRACTION = 1.05
# Boxes are taken for corners where at least this share, and this many, pass the border by more than a part of the side
_PASSING, _LEAST_PASSING, _PART = 0.2, 2, 0.02
# and at least this share has its corners in order and on the image.
_IN_ORDER = 0.99

Tell = Callable[..., None]


def usable_areas(area_P: np.ndarray, xywh_P4: np.ndarray, usable_P: np.ndarray, tell: Tell) -> np.ndarray:
    """(P,) areas in pixels: width x height where the file's is not positive. At most what COCO still measures."""
    wrong_P = ~(area_P > 0)
    with np.errstate(over="ignore"):
        box_P = xywh_P4[:, 2] * xywh_P4[:, 3]
    tell("unusable_area", wrong_P & usable_P & (box_P > 0))
    return np.minimum(np.where(wrong_P, box_P, area_P), _MAX_AREA)


def check_boxes(
    image_P: np.ndarray, class_P: np.ndarray, xywh_P4: np.ndarray, hw_P2: np.ndarray, looked_P: np.ndarray, tell: Tell
) -> np.ndarray:
    """Tells the faults of the boxes that are looked at.

    Args:
        image_P: int64, index of the image.
        class_P: int64, index of the class, -1 for none.
        xywh_P4: float64, finite.
        hw_P2: size of their images, NaN where not known.
        looked_P: bool.
        tell: takes a kind of fault, where it is as (P,) bool, and what fills the gaps of its text.

    Returns:
        (P,) bool: those with something of them on the image.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        _check_layout(xywh_P4, hw_P2, looked_P, tell)
        seen_P = looked_P.copy()
        for kind, fault_P in _box_faults(xywh_P4, hw_P2).items():
            tell(kind, fault_P & seen_P)
            if kind != "box_over_border":
                seen_P &= ~fault_P
    tell("duplicate_box", _repeated(image_P, class_P, xywh_P4, seen_P))
    return seen_P


def _check_layout(xywh_P4: np.ndarray, hw_P2: np.ndarray, looked_P: np.ndarray, tell: Tell) -> None:
    """Boxes in another layout than [x, y, width, height] in pixels."""
    x, y, w, h = xywh_P4.T
    total = int(looked_P.sum())
    within_P = (np.abs(xywh_P4) <= _FRACTION).all(axis=1) & (w > 0) & (h > 0) & looked_P
    found = int(within_P.sum())
    if 2 * found >= total:
        tell("fractional_boxes", within_P, found, total)
        return
    within_P &= (xywh_P4 != np.floor(xywh_P4)).any(axis=1)
    tell("few_fractional_boxes", within_P, int(within_P.sum()), total)
    height, width = hw_P2.T
    passing_P = ((x + w > (1 + _PART) * width) | (y + h > (1 + _PART) * height)) & looked_P
    passing = int(passing_P.sum())
    if passing < max(_LEAST_PASSING, _PASSING * total):
        return
    t = 2 * _BORDER_TOLERANCE
    on_image_P = (np.minimum(x, y) >= -t) & (w <= width + t) & (h <= height + t)
    fitting = int((looked_P & on_image_P & (w > x) & (h > y)).sum())
    if fitting >= _IN_ORDER * total:
        tell("corner_boxes", passing_P, round(100 * passing / total), round(100 * fitting / total))


def _box_faults(xywh_P4: np.ndarray, hw_P2: np.ndarray) -> dict[str, np.ndarray]:
    """Kind of warning -> (P,) where; an image of unknown size (NaN) has no borders."""
    x, y, w, h = xywh_P4.T
    height, width = hw_P2.T
    outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
    t = _BORDER_TOLERANCE
    over = (np.minimum(x, y) < -t) | (x + w > width + t) | (y + h > height + t)
    sized = np.isfinite(width)
    return dict(degenerate_box=(w <= 0) | (h <= 0), box_outside_image=outside & sized, box_over_border=over & sized)


def _repeated(image_P: np.ndarray, class_P: np.ndarray, xywh_P4: np.ndarray, looked_P: np.ndarray) -> np.ndarray:
    """(P,) bool: boxes that stand before in the list, of the same image and class."""
    columns_P6 = np.column_stack([image_P, class_P, xywh_P4 + 0.0])[looked_P]  # -0.0 is 0.0
    words_P6 = columns_P6.view(np.uint64)
    # One number of each, as sorting six columns takes too long; what is equal by it is compared whole.
    odd_6 = np.random.default_rng(0).integers(2**63, size=6, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hash_P = ((words_P6 ^ (words_P6 >> np.uint64(29))) * odd_6).sum(axis=1, dtype=np.uint64)
    order_P = np.argsort(hash_P, kind="stable")
    same_P = hash_P[order_P][1:] == hash_P[order_P][:-1]
    repeated_P = np.zeros(len(looked_P), dtype=bool)
    places_P = np.flatnonzero(looked_P)
    first: dict[bytes, int] = {}
    for i in np.unique(np.concatenate([order_P[:-1][same_P], order_P[1:][same_P]])).tolist():
        key = columns_P6[i].tobytes()
        repeated_P[places_P[i]] = key in first
        first.setdefault(key, i)
    return repeated_P
