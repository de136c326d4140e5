"""What becomes of each query from stage to stage: fading matches, growing errors, and what a choice of stage could give.

Shape legend: L stages, Q queries, K classes, P detections of a stage, N detections of all pictures, G objects, F faded
matches, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .precision import average_precision
from .stage_matching import Lineage, Objects, match, overlaps, status
from .stage_report import COUNTS, StageReport, StageRow

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECOVERABLE_SCORE = 0.1
_ORACLE_DETECTIONS = 100


@dataclass
class Fadings:
    """Faded matches of one picture, the largest loss of score first.

    Attributes:
        query_F: their queries.
        drop_F: best score of a better earlier stage less that of the last.
        boxes_LF4, score_LF, class_LF: their predictions at every stage.
        object_F: index of the object.
    """

    query_F: np.ndarray
    drop_F: np.ndarray
    boxes_LF4: np.ndarray
    score_LF: np.ndarray
    class_LF: np.ndarray
    object_F: np.ndarray


@dataclass
class _Picture:
    """What is kept of one picture: the detections that AP needs, and counts."""

    score_LQ: np.ndarray
    class_LQ: np.ndarray
    status_TLQ: np.ndarray
    top_score_P: np.ndarray
    top_class_P: np.ndarray
    top_status_TP: np.ndarray
    oracle_score_TP: np.ndarray
    oracle_status_TP: np.ndarray
    counts_T: list[dict[str, int]]
    classes_G: np.ndarray
    fadings: Fadings


class StageErrors:
    """Stage-wise errors of the queries of a decoder (arXiv 2212.07593, section 3) over a data set.

    Each query stands for one detection at each stage: its best class. All of them count, whatever their score, and are
    matched within a stage as COCO does it. Of the last stage's matches and errors it then counts

    - faded matches: an earlier stage had, by the same query and class, no lower IoU with the object and a higher score;
    - exacerbated errors: an earlier stage had, by the same query and class, a match, or an error of lower score;
    - recoverable misses: an earlier stage matched the missed object with a score above 0.1, by any query.

    For the oracle AP each stage gives its 100 best (query, class) pairs, as COCO results are made (the best classes
    alone where only labels are given); "the same query" means the same pair. Each match of the last stage takes box and
    score of the best-scoring better earlier one, each error the lowest score it had as an error; then all are matched
    anew. A threshold at a time, so the figure for several is the mean.

    Args:
        num_classes: K.
        thresholds: IoU thresholds, in (0, 1).
    """

    def __init__(self, num_classes: int, thresholds: tuple[float, ...] = (0.75,)) -> None:
        if not thresholds or not all(0 < t < 1 for t in thresholds):
            raise ValueError(f"IoU thresholds must lie between 0 and 1; got {thresholds}")
        self.num_classes = num_classes
        self.thresholds_T = np.array(sorted(thresholds), dtype=np.float64)
        self.shown = int(np.abs(self.thresholds_T - 0.75).argmin())  # whose fadings are kept to be drawn
        self.pictures: dict[int, _Picture] = {}

    def add(
        self,
        image: int,
        scores: np.ndarray,
        boxes_LQ4: np.ndarray,
        objects: Objects,
        labels_LQ: np.ndarray | None = None,
    ) -> None:
        """Take one picture.

        Args:
            image: index of the picture; pictures are ordered by it, and one that comes again counts once.
            scores: (L, Q, K) of all classes, or (L, Q) of the best ones.
            boxes_LQ4: XYXY in pixels of the original picture.
            objects: ground truth.
            labels_LQ: best classes, where ``scores`` has none.

        Raises:
            ValueError: shapes that do not fit.
        """
        self._check(scores, boxes_LQ4, labels_LQ)
        label_LQ = scores.argmax(-1) if labels_LQ is None else labels_LQ
        score_LQ = scores.max(-1) if labels_LQ is None else scores
        iou_LQG = overlaps(boxes_LQ4, label_LQ, objects)
        matched_TLQ = match(iou_LQG, score_LQ, objects.crowd_G, self.thresholds_T)
        key_LQ = np.arange(score_LQ.shape[1]) * self.num_classes + label_LQ
        lineage = Lineage(key_LQ, score_LQ, iou_LQG, matched_TLQ)
        faded_TQ = lineage.faded_TP()
        self.pictures[image] = _Picture(
            score_LQ,
            label_LQ.astype(np.int32),
            status(matched_TLQ),
            *self._oracle(scores, boxes_LQ4, label_LQ, objects),
            _counts(lineage, faded_TQ, matched_TLQ, score_LQ, objects.crowd_G),
            objects.class_G[~objects.crowd_G],
            self._fadings(lineage, faded_TQ[self.shown], boxes_LQ4, score_LQ, label_LQ),
        )

    def merge(self, other: StageErrors) -> None:
        """Take the pictures of another process; those known already stay."""
        self.pictures = {**other.pictures, **self.pictures}

    def result(self) -> StageReport:
        """Figures of all pictures taken.

        Raises:
            ValueError: none was.
        """
        if not self.pictures:
            raise ValueError("stage-wise errors of no pictures: add some first")
        found = [self.pictures[i] for i in sorted(self.pictures)]
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
        """Pictures that lost most score by fading (at IoU 0.75, or the threshold nearest to it), worst first."""
        faded = [(image, p.fadings) for image, p in sorted(self.pictures.items()) if len(p.fadings.query_F)]
        return sorted(faded, key=lambda pair: -pair[1].drop_F.sum())[:count]

    def _check(self, scores: np.ndarray, boxes: np.ndarray, labels: np.ndarray | None) -> None:
        wanted = (*boxes.shape[:2], self.num_classes) if labels is None else boxes.shape[:2]
        if scores.shape != wanted or boxes.shape[2:] != (4,) or (labels is not None and labels.shape != wanted):
            raise ValueError(
                f"expected scores {wanted} beside boxes (L, Q, 4), and labels (L, Q) where the scores are (L, Q); got "
                f"scores {scores.shape}, boxes {boxes.shape}, labels {None if labels is None else labels.shape}"
            )

    def _oracle(self, scores: np.ndarray, boxes_LQ4: np.ndarray, label_LQ: np.ndarray, objects: Objects) -> tuple:
        """Score, class and status of the last stage's best pairs; score and status after the choice of stage."""
        stages, classes = len(scores), self.num_classes
        index_LP = np.stack([_best(x, _ORACLE_DETECTIONS) for x in scores.reshape(stages, -1)])
        rows_L1 = np.arange(stages)[:, None]
        if scores.ndim == 3:
            query_LP, class_LP = index_LP // classes, index_LP % classes
        else:
            query_LP, class_LP = index_LP, label_LQ[rows_L1, index_LP]
        score_LP = scores.reshape(stages, -1)[rows_L1, index_LP]
        iou_LPG = overlaps(boxes_LQ4[rows_L1, query_LP], class_LP, objects)
        matched_TLP = match(iou_LPG, score_LP, objects.crowd_G, self.thresholds_T)
        lineage = Lineage(query_LP * classes + class_LP, score_LP, iou_LPG, matched_TLP)
        chosen_TP, iou_TPG = lineage.oracle(self.thresholds_T)
        anew_TP = [
            match(iou_TPG[t : t + 1], chosen_TP[t : t + 1], objects.crowd_G, self.thresholds_T[t : t + 1])[0, 0]
            for t in range(len(self.thresholds_T))
        ]
        return score_LP[-1], class_LP[-1], status(matched_TLP[:, -1]), chosen_TP, status(np.stack(anew_TP))

    def _fadings(
        self, lineage: Lineage, faded_Q: np.ndarray, boxes_LQ4: np.ndarray, score_LQ: np.ndarray, label_LQ: np.ndarray
    ) -> Fadings:
        query = np.flatnonzero(faded_Q)
        obj = lineage.matched_TP[self.shown, query]
        better = lineage.iou_SPG[:, query, obj] >= lineage.iou_PG[query, obj]
        drop = np.where(better, lineage.score_SP[:, query], 0).max(0, initial=0) - lineage.score_P[query]
        order = np.argsort(-drop, kind="stable")
        query, obj = query[order], obj[order]
        return Fadings(query, drop[order], boxes_LQ4[:, query], score_LQ[:, query], label_LQ[:, query], obj)

    def _ap(self, found: list[_Picture], objects_K: np.ndarray, stage: int) -> np.ndarray:
        """AP of one stage's best classes at each threshold."""
        scores = np.concatenate([p.score_LQ[stage] for p in found])
        classes = np.concatenate([p.class_LQ[stage] for p in found])
        statuses = np.concatenate([p.status_TLQ[:, stage] for p in found], axis=1)
        return _mean(average_precision(scores, classes, statuses, objects_K))


def _counts(
    lineage: Lineage, faded_TQ: np.ndarray, matched_TLQ: np.ndarray, score_LQ: np.ndarray, crowd_G: np.ndarray
) -> list[dict[str, int]]:
    """``COUNTS`` of one picture at each threshold."""
    exacerbated_TQ = lineage.exacerbated_TP()
    rows = []
    for t, matched_LQ in enumerate(matched_TLQ):
        final = status(matched_LQ[-1])
        missed_G = ~crowd_G
        missed_G[matched_LQ[-1][final > 0]] = False
        earlier = matched_LQ[:-1]
        known = np.unique(earlier[(earlier >= 0) & (score_LQ[:-1] > _RECOVERABLE_SCORE)])
        rows.append(
            {
                "tp": int((final > 0).sum()),
                "fp": int((final == 0).sum()),
                "missed": int(missed_G.sum()),
                "faded": int(faded_TQ[t].sum()),
                "exacerbated": int(exacerbated_TQ[t].sum()),
                "recoverable": int(missed_G[known].sum()),
            }
        )
    return rows


def _best(scores_N: np.ndarray, count: int) -> np.ndarray:
    """Indices of the highest scores, descending; of equals the first."""
    if len(scores_N) > count:
        kept = np.flatnonzero(scores_N >= np.partition(scores_N, -count)[-count])
    else:
        kept = np.arange(len(scores_N))
    return kept[np.argsort(-scores_N[kept], kind="stable")][:count]


def _joined(found: list[_Picture], name: str) -> np.ndarray:
    """(T, N) of what is kept as (T, P)."""
    return np.concatenate([getattr(p, name) for p in found], axis=1)


def _mean(ap_TK: np.ndarray) -> np.ndarray:
    """Mean over the classes that have objects; NaN where none has."""
    known = ap_TK[:, ~np.isnan(ap_TK[0])]
    return known.mean(1) if known.shape[1] else np.full(len(ap_TK), np.nan)
