"""What detections got right and wrong on a whole data set: curves, confusion, what is missed, the worst images.

Shape legend: P detections, G objects, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..analysis.stages.matching import FALSE, Objects, match, overlaps
from ..data.ground_truth import BoxTable, GroundTruth
from ..evaluation.best_f1 import FALSE as WRONG
from ..evaluation.best_f1 import FOUND, IGNORED, IOU, Point, best_point

DEFAULT_THRESHOLD = 0.5
_IOUS = np.array([IOU])


@dataclass
class ImageDetections:
    """One image.

    Attributes:
        image: its index.
        xyxy_P4, class_P, score_P: detections, best first.
        object_P: the object of its class that each found, ``FALSE`` or not counted, as COCO matches.
        any_P: the same whatever the class.
        objects: ground truth.
    """

    image: int
    xyxy_P4: np.ndarray
    class_P: np.ndarray
    score_P: np.ndarray
    object_P: np.ndarray
    any_P: np.ndarray
    objects: Objects

    def shown(self, threshold: float) -> np.ndarray:
        """(P,) whether each is shown."""
        return self.score_P >= threshold

    def found(self, threshold: float) -> np.ndarray:
        """(G,) whether each object is found by what is shown; crowd regions count as found."""
        found_G = self.objects.crowd_G.copy()
        hits = self.object_P[self.shown(threshold) & (self.object_P >= 0)]
        found_G[hits] = True
        return found_G

    def errors(self, threshold: float) -> tuple[int, int]:
        """(objects missed, detections shown that found none)."""
        return int((~self.found(threshold)).sum()), int((self.shown(threshold) & (self.object_P == FALSE)).sum())


@dataclass
class Detections:
    """All images of a data set, see ``matched``.

    Attributes:
        class_names: by class index.
        images: those that were predicted on.
        point: the threshold with the best F1, as an evaluation has it.
    """

    class_names: list[str]
    images: list[ImageDetections]
    point: Point = field(init=False)

    def __post_init__(self) -> None:
        self.score_P = self._joined([x.score_P for x in self.images])
        self.class_P = self._joined([x.class_P for x in self.images]).astype(np.int64)
        self.kind_P = _kinds(self._joined([x.object_P for x in self.images]))
        self.any_P = _kinds(self._joined([x.any_P for x in self.images]))
        truth = [x.objects.class_G[~x.objects.crowd_G] for x in self.images]
        self.objects_K = np.bincount(self._joined(truth).astype(np.int64), minlength=len(self.class_names))
        self.point = best_point(self.score_P, self.kind_P, self.num_objects)

    @staticmethod
    def _joined(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts) if parts else np.zeros(0)

    @property
    def num_objects(self) -> int:
        """Of all classes, without crowd regions."""
        return int(self.objects_K.sum())

    @property
    def threshold(self) -> float:
        """Of the best F1; where no detection is right at all, what predictions are shown by."""
        return DEFAULT_THRESHOLD if np.isnan(self.point.threshold) else self.point.threshold

    def curve(self, label: int | None = None, any_class: bool = False) -> list[tuple[float, float]]:
        """(recall, precision) at IoU 0.5, by falling score; of one class, or of all together."""
        of_P = np.ones(len(self.score_P), bool) if label is None else self.class_P == label
        kind_P = (self.any_P if any_class else self.kind_P)[of_P]
        objects = self.num_objects if label is None else int(self.objects_K[label])
        kind_P = kind_P[np.argsort(-self.score_P[of_P], kind="stable")]
        right = kind_P[kind_P != IGNORED] == FOUND
        if not objects or not right.any():
            return []
        at = np.flatnonzero(right)
        found = np.arange(1, len(at) + 1)
        precision = np.maximum.accumulate((found / (at + 1))[::-1])[::-1]
        return [(0.0, float(precision[0])), *zip((found / objects).tolist(), precision.tolist(), strict=True)]

    def area(self, any_class: bool = False) -> float:
        """Area under the curve of all classes together, 0 to 1."""
        points = self.curve(any_class=any_class)
        return sum((b[0] - a[0]) * b[1] for a, b in zip(points, points[1:], strict=False))

    def confusion(self) -> np.ndarray:
        """(K + 1, K + 1) objects by their class and that of what found them; the last are none.

        At the threshold, whatever the class: the best-scored detection shown takes the free object it overlaps most.
        """
        size = len(self.class_names)
        table = np.zeros((size + 1, size + 1), dtype=np.int64)
        for x in self.images:
            shown = x.shown(self.threshold)
            hit = shown & (x.any_P >= 0)
            np.add.at(table, (x.objects.class_G[x.any_P[hit]], x.class_P[hit]), 1)
            np.add.at(table, (size, x.class_P[shown & (x.any_P == FALSE)]), 1)
            missed = ~x.objects.crowd_G
            missed[x.any_P[hit]] = False
            np.add.at(table, (x.objects.class_G[missed], size), 1)
        return table

    def worst(self, count: int) -> list[ImageDetections]:
        """The images with most errors at the threshold, of equals those whose false detections score higher."""
        def badness(x: ImageDetections) -> tuple[float, float]:
            false_P = x.shown(self.threshold) & (x.object_P == FALSE)
            return sum(x.errors(self.threshold)), float(x.score_P[false_P].sum())

        bad = [x for x in self.images if sum(x.errors(self.threshold))]
        return sorted(bad, key=badness, reverse=True)[:count]

    def sides(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all objects: width, height (pixels), and whether they are found at the threshold."""
        there = [~x.objects.crowd_G for x in self.images]
        wh = [x.objects.xywh_G4[keep, 2:] for x, keep in zip(self.images, there, strict=True)]
        found = [x.found(self.threshold)[keep] for x, keep in zip(self.images, there, strict=True)]
        sizes = np.concatenate(wh) if wh else np.zeros((0, 2))
        return sizes[:, 0], sizes[:, 1], self._joined(found).astype(bool)


def _kinds(object_P: np.ndarray) -> np.ndarray:
    return np.where(object_P >= 0, FOUND, np.where(object_P == FALSE, WRONG, IGNORED))


def matched(truth: GroundTruth, found: BoxTable, images: list[int], max_dets: int = 100) -> Detections:
    """Matches detections with objects at IoU 0.5, image by image.

    Args:
        truth: ground truth.
        found: detections of some of its images.
        images: indices of the images that were predicted on.
        max_dets: best detections of an image that are looked at.
    """
    order = np.lexsort((-found.score_P, found.image_P))
    image_P = found.image_P[order]
    rows = []
    for image in images:
        low, high = np.searchsorted(image_P, [image, image + 1])
        own = order[low : min(high, low + max_dets)]
        objects = Objects(*truth.objects_of(image))
        xywh = found.xywh_P4[own]
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        labels, scores = found.class_P[own], found.score_P[own]
        alike = Objects(objects.xywh_G4, np.zeros_like(objects.class_G), objects.crowd_G)
        hits = [
            match(overlaps(xyxy[None], k[None], o), scores[None], objects.crowd_G, _IOUS)[0, 0]
            for k, o in ((labels, objects), (np.zeros_like(labels), alike))
        ]
        rows.append(ImageDetections(image, xyxy, labels, scores, *hits, objects))
    return Detections(list(truth.classes.names), rows)
