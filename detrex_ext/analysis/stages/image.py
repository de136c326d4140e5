"""Stage-wise errors on one image.

Shape legend: L stages, Q queries, K classes, P detections of a stage, G objects, F faded matches, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matching import FALSE, Lineage, Objects, match, overlaps, status
from .report import COUNTS

_RECOVERABLE_SCORE = 0.1
_ORACLE_DETECTIONS = 100


@dataclass
class Fadings:
    """Faded matches of one image, the largest loss of score first.

    Attributes:
        query_F: their queries.
        drop_F: highest score of the better earlier stages less that of the last.
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
class ImageErrors:
    """What is kept of one image: the detections that AP needs (with ``status``), and counts.

    Attributes:
        score_LQ, class_LQ, status_TLQ: best class of each query.
        top_score_P, top_class_P, top_status_TP: best (query, class) pairs of the last stage.
        oracle_score_TP, oracle_status_TP: these after the choice of stage.
        counts_T: ``COUNTS`` at each threshold.
        classes_G: of the objects that are no crowd regions.
        fadings: to be drawn.
    """

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


@dataclass
class _Detections:
    """P detections of each stage; a (query, class) pair occurs once in a stage."""

    query_LP: np.ndarray
    class_LP: np.ndarray
    score_LP: np.ndarray
    boxes_LP4: np.ndarray

    def matched(self, objects: Objects, num_classes: int, thresholds_T: np.ndarray) -> tuple[np.ndarray, Lineage]:
        """Matches (T, L, P), and the last stage's detections with their earlier ones."""
        iou_LPG = overlaps(self.boxes_LP4, self.class_LP, objects)
        matched_TLP = match(iou_LPG, self.score_LP, objects.crowd_G, thresholds_T)
        keys_LP = self.query_LP * num_classes + self.class_LP
        return matched_TLP, Lineage(keys_LP, self.score_LP, iou_LPG, matched_TLP)


def analyze(
    scores: np.ndarray,
    boxes_LQ4: np.ndarray,
    objects: Objects,
    labels_LQ: np.ndarray | None,
    num_classes: int,
    thresholds_T: np.ndarray,
    shown: int,
) -> ImageErrors:
    """What ``StageErrors`` keeps of an image; ``shown`` is the threshold whose fadings are drawn, the rest its own."""
    best, pairs = _best_classes(scores, boxes_LQ4, labels_LQ), _best_pairs(scores, boxes_LQ4, labels_LQ)
    matched_TLQ, lineage = best.matched(objects, num_classes, thresholds_T)
    faded_TQ = lineage.faded_TP()
    top_TLP, top_lineage = pairs.matched(objects, num_classes, thresholds_T)
    chosen_TP, iou_TPG = top_lineage.oracle(thresholds_T)
    anew_TP = [
        match(iou_TPG[t : t + 1], chosen_TP[t : t + 1], objects.crowd_G, thresholds_T[t : t + 1])[0, 0]
        for t in range(len(thresholds_T))
    ]
    return ImageErrors(
        best.score_LP,
        best.class_LP.astype(np.int32),
        status(matched_TLQ),
        pairs.score_LP[-1],
        pairs.class_LP[-1],
        status(top_TLP[:, -1]),
        chosen_TP,
        status(np.stack(anew_TP)),
        _counts(lineage, faded_TQ, matched_TLQ, best.score_LP, objects.crowd_G),
        objects.class_G[~objects.crowd_G],
        _fadings(lineage, faded_TQ[shown], lineage.matched_TP[shown], best),
    )


def _best_classes(scores: np.ndarray, boxes_LQ4: np.ndarray, labels_LQ: np.ndarray | None) -> _Detections:
    query_LQ = np.broadcast_to(np.arange(boxes_LQ4.shape[1]), boxes_LQ4.shape[:2])
    if labels_LQ is None:
        return _Detections(query_LQ, scores.argmax(-1), scores.max(-1), boxes_LQ4)
    return _Detections(query_LQ, labels_LQ, scores, boxes_LQ4)


def _best_pairs(scores: np.ndarray, boxes_LQ4: np.ndarray, labels_LQ: np.ndarray | None) -> _Detections:
    flat_LN = scores.reshape(len(scores), -1)
    index_LP = np.stack([_highest(x, _ORACLE_DETECTIONS) for x in flat_LN])
    rows_L1 = np.arange(len(scores))[:, None]
    if labels_LQ is None:
        query_LP, class_LP = np.divmod(index_LP, scores.shape[-1])
    else:
        query_LP, class_LP = index_LP, labels_LQ[rows_L1, index_LP]
    return _Detections(query_LP, class_LP, flat_LN[rows_L1, index_LP], boxes_LQ4[rows_L1, query_LP])


def _highest(scores_N: np.ndarray, count: int) -> np.ndarray:
    """Indices of the highest scores, descending; of equals the first."""
    kept = np.arange(len(scores_N))
    if len(scores_N) > count:
        kept = np.flatnonzero(scores_N >= np.partition(scores_N, -count)[-count])
    return kept[np.argsort(-scores_N[kept], kind="stable")][:count]


def _counts(
    lineage: Lineage, faded_TQ: np.ndarray, matched_TLQ: np.ndarray, score_LQ: np.ndarray, crowd_G: np.ndarray
) -> list[dict[str, int]]:
    exacerbated_TQ = lineage.exacerbated_TP()
    rows = []
    for t, matched_LQ in enumerate(matched_TLQ):
        last, earlier_SQ = matched_LQ[-1], matched_LQ[:-1]
        missed_G = ~crowd_G
        missed_G[last[last >= 0]] = False
        found = np.unique(earlier_SQ[(earlier_SQ >= 0) & (score_LQ[:-1] > _RECOVERABLE_SCORE)])
        values = (
            (last >= 0).sum(),
            (last == FALSE).sum(),
            missed_G.sum(),
            faded_TQ[t].sum(),
            exacerbated_TQ[t].sum(),
            missed_G[found].sum(),
        )
        rows.append(dict(zip(COUNTS, map(int, values), strict=True)))
    return rows


def _fadings(lineage: Lineage, faded_Q: np.ndarray, matched_Q: np.ndarray, best: _Detections) -> Fadings:
    query = np.flatnonzero(faded_Q)
    obj = matched_Q[query]
    better = lineage.iou_SPG[:, query, obj] >= lineage.iou_PG[query, obj]
    drop = np.where(better, lineage.score_SP[:, query], 0).max(0, initial=0) - lineage.score_P[query]
    order = np.argsort(-drop, kind="stable")
    query, obj = query[order], obj[order]
    tables = (x[:, query] for x in (best.boxes_LP4, best.score_LP, best.class_LP))
    return Fadings(query, drop[order], *tables, obj)
