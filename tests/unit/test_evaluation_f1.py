"""The score threshold with the best F1, held against brute force and COCO's own matching."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import test_evaluation as one

from detrex_ext.data.ground_truth import BoxTable
from detrex_ext.evaluation import CocoEvaluator, print_csv_format
from detrex_ext.evaluation.best_f1 import AGAIN, FALSE, FOUND, IGNORED, best_f1, best_point
from detrex_ext.evaluation.coco_metrics import _evaluate

LIBRARIES = [False, True]


def brute(score, kind, objects):
    """F1 of every threshold there could be, by counting."""
    counted = kind != IGNORED
    best = (-1.0, 0.0)
    for t in sorted({*score.tolist(), 0.0}):
        shown = counted & (score >= t)
        best = max(best, (2 * (shown & (kind == FOUND)).sum() / (shown.sum() + objects), t))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_no_other_threshold_has_a_better_f1(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 30))
    score = rng.integers(1, 8, size) / 8  # with many equal ones
    kind = rng.choice([FALSE, FOUND, AGAIN, IGNORED], size)
    objects = int((kind == FOUND).sum() + rng.integers(1, 9))
    point = best_point(score, kind, objects)
    if not (kind == FOUND).any():
        assert math.isnan(point.threshold) and point.f1 == point.recall == 0 and math.isnan(point.precision)
        return
    value, lowest = brute(score, kind, objects)
    shown = (kind != IGNORED) & (score >= point.threshold)
    right = (shown & (kind == FOUND)).sum()
    assert point.f1 == pytest.approx(value) == pytest.approx(2 * right / (shown.sum() + objects))
    assert point.precision == pytest.approx(right / shown.sum()) and point.recall == pytest.approx(right / objects)
    below = score[(kind != IGNORED) & (score < lowest)].max(initial=0.0)
    assert point.threshold == pytest.approx((lowest + below) / 2), "in the middle of the gap, the highest of equals"


@pytest.mark.parametrize(
    "scores, kinds, objects, expected",
    [
        ([], [], 3, (math.nan, 0.0, math.nan, 0.0)),
        ([], [], 0, (math.nan, math.nan, math.nan, math.nan)),
        ([0.9], [FALSE], 0, (math.nan, math.nan, math.nan, math.nan)),
        ([0.9, 0.8], [FALSE, IGNORED], 2, (math.nan, 0.0, math.nan, 0.0)),
        ([0.8, math.nan], [FOUND, FOUND], 2, (0.4, 2 / 3, 1.0, 0.5)),
        ([0.8, 0.8], [FOUND, FALSE], 1, (0.4, 2 / 3, 0.5, 1.0)),
        ([0.9, 0.5, 0.4, 0.3], [FOUND, FALSE, FALSE, FOUND], 2, (0.7, 2 / 3, 1.0, 0.5)),
    ],
)
def test_ties_empty_classes_and_what_cannot_be_counted(scores, kinds, objects, expected):
    point = best_point(np.array(scores), np.array(kinds, dtype=np.int64), objects)
    assert (point.threshold, point.f1, point.precision, point.recall) == pytest.approx(expected, nan_ok=True)


def official(truth, found, images, classes, max_dets):
    """Which detections pycocotools matches at IoU 0.5, and which it ignores, by their place in the table."""
    result = _evaluate(truth, found, images, classes, max_dets, False)
    matched, ignored = set(), set()
    for entry in result.evalImgs[: classes * 4 * images]:
        if entry is not None and entry["aRng"] == result.params.areaRng[0]:
            rows = zip(entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True)
            for i, to, out in rows:
                (ignored if out else matched if to else set()).add(i - 1)
    return matched, ignored


def crowded(seed, images=15, classes=3):
    """Boxes that overlap each other a lot, with crowd regions, equal scores and more than a class may have."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        xywh = np.concatenate([rng.integers(0, 20, (n, 2)), rng.integers(10, 40, (n, 2))], 1).astype(float)
        return rng.integers(0, images, n), rng.integers(0, classes, n), xywh

    truth = BoxTable(*boxes(90), crowd_P=rng.random(90) < 0.1)
    order = np.argsort((given := boxes(900))[0], kind="stable")
    image, class_, xywh = (x[order] for x in given)
    return truth, BoxTable(image, class_, xywh, rng.integers(1, 50, 900) / 50)


@pytest.mark.parametrize("fast", LIBRARIES)
@pytest.mark.parametrize("seed", range(4))
def test_right_detections_are_those_of_coco(seed, fast):
    if fast:
        pytest.importorskip("faster_coco_eval")
    from detrex_ext.evaluation.best_f1 import kinds

    truth, found = crowded(seed)
    limit = 12
    kind = kinds(truth, found, 3, limit, _evaluate(truth, found, 15, 3, limit, fast).ious)
    matched, ignored = official(truth, found, 15, 3, limit)
    assert set(np.flatnonzero(kind == FOUND)) == matched and len(matched) > 30
    counted = set(np.flatnonzero(kind != IGNORED))
    assert ignored and not counted & ignored and len(found.image_P) > len(counted)
    for p in np.flatnonzero((kind == AGAIN) | (kind == FALSE)):
        near = [g for g in same_group(truth, found, p) if overlap(truth, found, p, g) >= 0.5]
        assert (len(near) > 0) == (kind[p] == AGAIN)


def same_group(truth, found, p):
    here = (truth.image_P == found.image_P[p]) & (truth.class_P == found.class_P[p]) & ~truth.crowd_P
    return np.flatnonzero(here)


def overlap(truth, found, p, g):
    (ax, ay, aw, ah), (bx, by, bw, bh) = found.xywh_P4[p], truth.xywh_P4[g]
    w, h = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    shared = max(w, 0) * max(h, 0)
    return shared / (aw * ah + bw * bh - shared)


@pytest.mark.parametrize("fast", LIBRARIES)
def test_counts_of_a_set_by_hand(fast):
    """Two objects are found, one of them three times, one object never; of the other class there is nothing to find."""
    if fast:
        pytest.importorskip("faster_coco_eval")
    image = np.zeros(3, dtype=np.int64)
    where = np.array([[0, 0, 10, 10], [50, 0, 10, 10], [0, 50, 10, 10]], dtype=float)
    truth = BoxTable(image, image, where, crowd_P=np.zeros(3, bool))
    boxes = where[[0, 0, 1, 0, 1]]
    found = BoxTable(np.zeros(5, int), np.array([0, 0, 0, 0, 1]), boxes, np.array([0.9, 0.8, 0.7, 0.2, 0.6]))
    result = best_f1(truth, found, 2, 100, _evaluate(truth, found, 1, 2, 100, fast).ious)
    assert result.point.threshold == pytest.approx(0.65) and result.point.f1 == pytest.approx(4 / 6)
    assert (result.duplicates, result.never_found) == (1, 1)
    assert math.isnan(result.class_points[1].f1) and math.isnan(result.class_points[1].threshold)


def test_an_evaluation_reports_the_threshold(tmp_path, caplog):
    data = one._data()
    (tmp_path / "val.json").write_text(json.dumps(data))
    evaluator = CocoEvaluator(tmp_path / "val.json")
    evaluator.process(*one._predictions(data))
    with caplog.at_level(logging.INFO, "detrex_ext"):
        results = evaluator.evaluate()
        print_csv_format(results)
    f1 = results["bbox_f1"]
    assert list(f1)[:6] == ["threshold", "F1", "precision", "recall", "duplicates", "never_found"]
    assert list(f1)[6:] == [f"threshold-{name}" for name in one.CLASSES.values()]
    assert 0 < f1["threshold"] < 1 and 0 < f1["F1"] < 100
    assert f1["F1"] == pytest.approx(2 / (1 / f1["precision"] + 1 / f1["recall"]))
    assert {f"bbox_f1/{name}" for name in list(f1)[:6]} <= set(evaluator.metric_names())
    told = [r.getMessage() for r in caplog.records]
    assert [text for text in told if "copypaste" in text][1] == "copypaste: AP,AP50,AP75,APs,APm,APl"
    assert sum("copypaste" in text for text in told) == 3, "the lines that scripts read are as they were"
    table = next(text for text in told if "best F1" in text)
    assert table.count("\n") == 2 + len(one.CLASSES) and "objects never found" in table


def test_the_table_stays_small_with_many_classes(caplog):
    from detrex_ext.evaluation.best_f1 import BestF1, Point

    points = tuple(Point(0.5, k / 100, 0.5, 0.5) for k in range(80))
    with caplog.at_level(logging.INFO, "detrex_ext"):
        BestF1(points[7], points, 0, 0).named([f"c{k}" for k in range(80)], "bbox")
    assert caplog.text.count("\n") < 26 and "... and 60 classes" in caplog.text and "| c0 " in caplog.text


def test_a_model_that_finds_nothing_is_told_in_words(caplog):
    from detrex_ext.evaluation.best_f1 import BestF1, Point

    nothing = Point(math.nan, 0.0, math.nan, 0.0)
    with caplog.at_level(logging.INFO, "detrex_ext"):
        result = BestF1(nothing, (nothing, nothing), 0, 17).named(["a", "b"], "bbox")["bbox_f1"]
    assert "no detection is right at IoU 0.5" in caplog.text and "nan" not in caplog.text
    assert math.isnan(result["threshold"]) and (result["F1"], result["never_found"]) == (0.0, 17.0)
