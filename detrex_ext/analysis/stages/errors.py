"""What becomes of each query from stage to stage: matches that fade, errors that grow, and what is within reach.

Shape legend: L stages, Q queries, K classes, P detections of an image, N of all images, T IoU thresholds.
"""

from __future__ import annotations

import numpy as np

from .image import Fadings, ImageErrors, analyze
from .matching import Objects, average_precision
from .report import COUNTS, StageReport, StageRow

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


class StageErrors:
    """Stage-wise errors of the queries of a decoder (as arXiv 2212.07593 analyzes them) over a data set.

    Each query stands for one detection at each stage: its best class. All of them count, whatever their score, and are
    matched within a stage as COCO does it. Of the last stage's matches and errors it then counts

    - faded matches: an earlier stage had, by the same query and class, no lower IoU with the object and a higher score;
    - exacerbated errors: an earlier stage had, by the same query and class, a match, or an error of lower score;
    - recoverable misses: an earlier stage matched the missed object with a score above 0.1, by any query.

    For the oracle AP each stage gives its 100 best (query, class) pairs, as COCO results are made (the best classes
    alone where only labels are given); "the same query" means the same pair. Each match of the last stage takes box and
    score of the best-scoring better earlier one, each error the lowest score it had as an error; then all are matched
    anew. A threshold at a time, so the value for several is the mean.

    Args:
        num_classes: K.
        thresholds: IoU thresholds, in (0, 1).
    """

    def __init__(self, num_classes: int, thresholds: tuple[float, ...] = (0.75,)) -> None:
        if not thresholds or not all(0 < t < 1 for t in thresholds):
            raise ValueError(f"IoU thresholds must lie between 0 and 1; got {thresholds}")
        self.num_classes = num_classes
        self.thresholds_T = np.array(sorted(set(thresholds)), dtype=np.float64)
        self.shown = int(np.abs(self.thresholds_T - 0.75).argmin())  # whose fadings are kept to be drawn
        self.images: dict[int, ImageErrors] = {}

    def add(
        self,
        image: int,
        scores: np.ndarray,
        boxes_LQ4: np.ndarray,
        objects: Objects,
        labels_LQ: np.ndarray | None = None,
    ) -> None:
        """Take one image.

        Args:
            image: index of the image; images are ordered by it, and one that comes again counts once.
            scores: (L, Q, K) of all classes, or (L, Q) of the best ones.
            boxes_LQ4: XYXY in pixels of the original image.
            objects: ground truth.
            labels_LQ: best classes, where ``scores`` has none.

        Raises:
            ValueError: shapes that do not fit.
        """
        self._check(scores, boxes_LQ4, labels_LQ)
        self.images[image] = analyze(
            scores, boxes_LQ4, objects, labels_LQ, self.num_classes, self.thresholds_T, self.shown
        )

    def merge(self, other: StageErrors) -> None:
        """Take the images of another process; those known already stay."""
        self.images = {**other.images, **self.images}

    def result(self) -> StageReport:
        """The metrics of all images taken.

        Raises:
            ValueError: none was.
        """
        if not self.images:
            raise ValueError("stage-wise errors of no images: add some first")
        found = [self.images[i] for i in sorted(self.images)]
        objects_K = np.bincount(np.concatenate([p.classes_G for p in found]), minlength=self.num_classes)
        ap_LT = [self._ap(found, objects_K, stage) for stage in range(len(found[0].score_LQ))]
        scores, classes = (np.concatenate([getattr(p, name) for p in found]) for name in ("top_score_P", "top_class_P"))
        top_T = _mean(average_precision(scores, classes, _joined(found, "top_status_TP"), objects_K))
        oracle_scores, oracle_status = (_joined(found, f"oracle_{name}_TP") for name in ("score", "status"))
        rows = []
        for t, threshold in enumerate(self.thresholds_T.tolist()):
            oracle = average_precision(oracle_scores[t], classes, oracle_status[t : t + 1], objects_K)
            counts = {name: sum(p.counts_T[t][name] for p in found) for name in COUNTS}
            ap_L = [float(ap_T[t]) for ap_T in ap_LT]
            rows.append(StageRow([threshold], ap_L, float(top_T[t]), float(_mean(oracle)[0]), **counts))
        return StageReport(len(found), rows)

    def worst(self, count: int) -> list[tuple[int, Fadings]]:
        """Images that lost most score by fading (at IoU 0.75, or the threshold nearest to it), worst first."""
        faded = [(image, p.fadings) for image, p in sorted(self.images.items()) if len(p.fadings.query_F)]
        return sorted(faded, key=lambda pair: -pair[1].drop_F.sum())[:count]

    def _check(self, scores: np.ndarray, boxes: np.ndarray, labels: np.ndarray | None) -> None:
        wanted = (*boxes.shape[:2], self.num_classes) if labels is None else boxes.shape[:2]
        if scores.shape != wanted or boxes.shape[2:] != (4,) or (labels is not None and labels.shape != wanted):
            raise ValueError(
                f"expected scores {wanted} beside boxes (L, Q, 4), and labels (L, Q) where the scores are (L, Q); got "
                f"scores {scores.shape}, boxes {boxes.shape}, labels {None if labels is None else labels.shape}"
            )

    def _ap(self, found: list[ImageErrors], objects_K: np.ndarray, stage: int) -> np.ndarray:
        """AP of one stage's best classes at each threshold."""
        scores = np.concatenate([p.score_LQ[stage] for p in found])
        classes = np.concatenate([p.class_LQ[stage] for p in found])
        statuses = np.concatenate([p.status_TLQ[:, stage] for p in found], axis=1)
        return _mean(average_precision(scores, classes, statuses, objects_K))


def _joined(found: list[ImageErrors], name: str) -> np.ndarray:
    """(T, N) of what is kept as (T, P)."""
    return np.concatenate([getattr(p, name) for p in found], axis=1)


def _mean(ap_TK: np.ndarray) -> np.ndarray:
    """Mean over the classes that have objects; NaN where none has."""
    known = ap_TK[:, ~np.isnan(ap_TK[0])]
    return known.mean(1) if known.shape[1] else np.full(len(ap_TK), np.nan)
