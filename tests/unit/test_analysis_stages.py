"""Stage-wise errors: the rules one by one, and a slow reading of them beside the fast one."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from detrex_ext.analysis.stages import COCO_THRESHOLDS, Objects, StageErrors, StageRow

CLASSES = 3
ONE_OBJECT = Objects(np.array([[0.0, 0.0, 100.0, 100.0]]), np.array([1]), np.array([False]))
NO_OBJECT = Objects(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))
HIT, NEAR_HIT, MISS = [0, 0, 100, 90], [0, 0, 100, 80], [200, 200, 300, 300]


def one_query(*stages, objects=ONE_OBJECT):
    """Figures at IoU 0.75 of a single query given as (box, score, class) at each stage."""
    boxes, scores, labels = zip(*stages, strict=True)
    errors = StageErrors(CLASSES)
    errors.add(0, np.array(scores)[:, None], np.array(boxes, dtype=float)[:, None], objects, np.array(labels)[:, None])
    return errors.result().rows[0]


def test_a_match_fades_with_an_earlier_higher_score_at_no_lower_iou():
    assert one_query((HIT, 0.6, 1), (HIT, 0.5, 1)).faded == 1
    assert one_query((HIT, 0.6, 1), (HIT, 0.4, 1), (NEAR_HIT, 0.5, 1)).faded == 1


@pytest.mark.parametrize(
    "earlier, why",
    [
        ((HIT, 0.5, 1), "an equal score"),
        ((NEAR_HIT, 0.6, 1), "a lower IoU"),
        ((HIT, 0.6, 2), "another class"),
    ],
)
def test_a_match_does_not_fade_with(earlier, why):
    row = one_query(earlier, (HIT, 0.5, 1))
    assert (row.tp, row.faded) == (1, 0), why


def test_an_error_is_exacerbated_by_a_rising_score_or_after_a_match():
    assert one_query((MISS, 0.2, 1), (MISS, 0.5, 1)).exacerbated == 1
    assert one_query((HIT, 0.9, 1), (MISS, 0.5, 1)).exacerbated == 1


@pytest.mark.parametrize(
    "earlier, why",
    [
        ((MISS, 0.6, 1), "it scored higher"),
        ((MISS, 0.5, 1), "it scored the same"),
        ((MISS, 0.2, 2), "it was of another class"),
    ],
)
def test_an_error_is_not_exacerbated_where(earlier, why):
    row = one_query(earlier, (MISS, 0.5, 1))
    assert (row.fp, row.exacerbated) == (1, 0), why


def test_errors_in_an_image_without_objects_count():
    row = one_query((MISS, 0.2, 1), (MISS, 0.5, 1), objects=NO_OBJECT)
    assert (row.fp, row.exacerbated, row.missed) == (1, 1, 0) and math.isnan(row.ap_L[0])
    assert math.isnan(row.rates()["TPF"]) and row.rates()["FPE"] == 1


def test_a_miss_is_recoverable_from_a_score_above_a_tenth():
    assert one_query((HIT, 0.11, 1), (MISS, 0.5, 1)).recoverable == 1
    assert one_query((HIT, 0.1, 1), (MISS, 0.5, 1)).recoverable == 0
    assert one_query((HIT, 0.3, 1), (MISS, 0.5, 1)).rates()["grief"] == 1


def test_a_crowd_region_takes_any_number_and_counts_for_nothing():
    crowd = Objects(ONE_OBJECT.xywh_G4, ONE_OBJECT.class_G, np.array([True]))
    errors = StageErrors(CLASSES)
    inside = np.array([[[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 150, 150]]])
    errors.add(0, np.array([[0.9, 0.8, 0.7]]), inside, crowd, np.array([[1, 1, 1]]))
    row = errors.result().rows[0]
    assert (row.tp, row.fp, row.missed) == (0, 1, 0)


def test_the_oracle_takes_the_better_stage():
    """A false box of another query scores above the last stage's match, but below what the match was before."""
    errors = StageErrors(CLASSES)
    scores, boxes = np.array([[0.8, 0.1], [0.5, 0.6]]), np.array([[HIT, MISS], [HIT, MISS]], dtype=float)
    errors.add(0, scores, boxes, ONE_OBJECT, np.ones((2, 2), dtype=np.int64))
    row = errors.result().rows[0]
    assert (row.ap_L, row.top_ap, row.oracle_ap) == ([1.0, 0.5], 0.5, 1.0)


def random_image(rng, stages, queries, dense):
    """Boxes on a grid, so that equal overlaps and scores occur; crowds, and images without objects."""
    count = int(rng.integers(0, 6))
    xywh = np.concatenate([rng.integers(0, 4, (count, 2)) * 4, rng.integers(2, 5, (count, 2)) * 8], 1).astype(float)
    objects = Objects(xywh, rng.integers(0, CLASSES, count), rng.random(count) < 0.25)
    low, size = rng.integers(0, 5, (stages, queries, 2)) * 4, rng.integers(3, 10, (stages, queries, 2)) * 4
    labels, points = rng.integers(0, CLASSES, (stages, queries)), rng.integers(1, 9, (stages, queries, CLASSES))
    if count:  # many queries stay at an object
        near = np.broadcast_to(rng.integers(0, count, queries), (stages, queries))
        on = rng.random((stages, queries, 1)) < 0.8
        low = np.where(on, xywh[near][..., :2] + rng.integers(-1, 2, low.shape), low)
        size = np.where(on, xywh[near][..., 2:] + rng.integers(-1, 2, low.shape), size)
        labels = np.where(rng.random(labels.shape) < 0.8, objects.class_G[near], labels)
    boxes = np.concatenate([low, low + size], -1).astype(np.float64)
    if not dense:
        return points[..., 0] / 10, boxes, objects, labels
    points[np.arange(stages)[:, None], np.arange(queries), labels] += 1
    return points / 10, boxes, objects, None


class Slow:
    """The rules read one sentence at a time: a detection is (query, class, score, box)."""

    def __init__(self, images, threshold):
        self.t = threshold
        self.counts = dict.fromkeys(("tp", "fp", "missed", "faded", "exacerbated", "recoverable"), 0)
        self.best, self.top, self.oracle = [], [], []
        for scores, boxes, objects, labels in images:
            g = [
                (tuple(b), int(k), bool(c))
                for b, k, c in zip(objects.xywh_G4, objects.class_G, objects.crowd_G, strict=True)
            ]
            best, pairs = [], []
            for stage in range(len(scores)):
                every = []
                for q in range(boxes.shape[1]):
                    s = scores[stage][q]
                    ranked = [(int(labels[stage][q]), float(s))] if labels is not None else list(enumerate(s.tolist()))
                    every.append([(q, k, p, tuple(boxes[stage][q])) for k, p in ranked])
                best.append([max(row, key=lambda d: d[2]) for row in every])
                pairs.append(sorted((d for row in every for d in row), key=lambda d: -d[2])[:100])
            self.best.append([(self.judge(dets, g), g) for dets in best])
            self.count(best, g)
            self.top.append((self.judge(pairs[-1], g), g))
            self.oracle.append((self.judge(self.choose(pairs, g), g), g))

    @staticmethod
    def iou(d, g):
        (x0, y0, x1, y1), (x, y, w, h) = d[3], g[0]
        wide, high = min(x1, x + w) - max(x0, x), min(y1, y + h) - max(y0, y)
        if d[1] != g[1] or wide <= 0 or high <= 0:
            return 0.0
        area = (x1 - x0) * (y1 - y0)
        return wide * high / (area if g[2] else area + w * h - wide * high)

    def judge(self, dets, objects):
        """[(detection, index of the object | "false" | "crowd")] in the order of `dets`."""
        free, answer = [i for i, g in enumerate(objects) if not g[2]], {}
        for n in sorted(range(len(dets)), key=lambda n: -dets[n][2]):
            fits = [(self.iou(dets[n], objects[i]), i) for i in free]
            fits = [f for f in fits if f[0] >= self.t]
            if fits:
                answer[n] = max(fits)[1]
                free.remove(answer[n])
            else:
                crowd = any(g[2] and self.iou(dets[n], g) >= self.t for g in objects)
                answer[n] = "crowd" if crowd else "false"
        return [(d, answer[n]) for n, d in enumerate(dets)]

    def earlier(self, judged, d):
        """What the same query said of the same class before."""
        return [(e, a) for stage in judged[:-1] for e, a in stage if e[:2] == d[:2]]

    def count(self, stages, objects):
        judged = [self.judge(dets, objects) for dets in stages]
        hit = set()
        for d, a in judged[-1]:
            before = self.earlier(judged, d)
            if a == "false":
                self.counts["fp"] += 1
                worse = any(b not in ("false", "crowd") or (b == "false" and e[2] < d[2]) for e, b in before)
                self.counts["exacerbated"] += worse
            elif a != "crowd":
                hit.add(a)
                self.counts["tp"] += 1
                g = objects[a]
                self.counts["faded"] += any(self.iou(e, g) >= self.iou(d, g) and e[2] > d[2] for e, _ in before)
        for i, g in enumerate(objects):
            if not g[2] and i not in hit:
                self.counts["missed"] += 1
                self.counts["recoverable"] += any(a == i and d[2] > 0.1 for s in judged[:-1] for d, a in s)

    def choose(self, stages, objects):
        judged = [self.judge(dets, objects) for dets in stages]
        chosen = []
        for d, a in judged[-1]:
            before = self.earlier(judged, d)
            if a == "false":
                low = [e[2] for e, b in before if b == "false" and e[2] < d[2]]
                d = (*d[:2], min([d[2], *low]), d[3])
            elif a != "crowd":
                better = [e for e, _ in before if self.iou(e, objects[a]) >= self.t and e[2] > d[2]]
                d = max(better, key=lambda e: e[2]) if better else d
            chosen.append(d)
        return chosen

    @staticmethod
    def ap(images):
        values = []
        for k in range(CLASSES):
            total = sum(g[1] == k and not g[2] for _, objects in images for g in objects)
            if not total:
                continue
            dets = [(d[2], a) for judged, _ in images for d, a in judged if d[1] == k and a != "crowd"]
            points, tp = [], 0
            for n, (_, a) in enumerate(sorted(dets, key=lambda d: -d[0]), 1):
                tp += a != "false"
                points.append((tp / total, tp / n))
            at = [max([p for r, p in points if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]
            values.append(float(np.mean(at)))
        return float(np.mean(values)) if values else math.nan

    def row(self):
        stages = [self.ap([p[s] for p in self.best]) for s in range(len(self.best[0]))]
        return {**self.counts, "ap_L": stages, "top_ap": self.ap(self.top), "oracle_ap": self.ap(self.oracle)}


def random_case(seed):
    rng = np.random.default_rng(seed)
    stages, queries = int(rng.integers(1, 5)), int(rng.integers(2, 9))
    if seed % 10 == 0:  # more than 100 pairs
        queries = 40
    return [random_image(rng, stages, queries, dense=seed % 2 == 0) for _ in range(int(rng.integers(1, 4)))]


@pytest.mark.parametrize("part", range(5))
def test_equal_to_a_slow_reading_on_random_cases(part):
    totals = dict.fromkeys(("tp", "faded", "exacerbated", "missed", "recoverable"), 0)
    gained = 0
    for seed in range(40 * part, 40 * part + 40):
        images = random_case(seed)
        thresholds = [(0.75,), (0.5, 0.75), COCO_THRESHOLDS][seed % 3]
        errors = StageErrors(CLASSES, thresholds)
        for i, (scores, boxes, objects, labels) in enumerate(images):
            errors.add(i, scores, boxes, objects, labels)
        for row in errors.result().rows:
            slow = Slow(images, row.iou[0]).row()
            for name, value in slow.items():
                assert np.array_equal(getattr(row, name), value, equal_nan=True), (seed, row.iou, name)
            totals = {name: totals[name] + getattr(row, name) for name in totals}
            gained += row.oracle_ap > row.top_ap
    assert min(totals.values()) > 20 and gained > 5, totals  # the cases are not empty


def official_ap(images, stage, threshold):
    """pycocotools' AP of the best class of each query."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = {"truth": [], "found": []}
    for i, (scores, boxes, objects, _) in enumerate(images):
        for xywh, k, crowd in zip(objects.xywh_G4, objects.class_G, objects.crowd_G, strict=True):
            rows["truth"].append((i, int(k), xywh.tolist(), 1.0, int(crowd)))
        for q in range(boxes.shape[1]):
            x0, y0, x1, y1 = boxes[stage, q].tolist()
            k = int(scores[stage, q].argmax())
            rows["found"].append((i, k, [x0, y0, x1 - x0, y1 - y0], float(scores[stage, q, k]), 0))
    sets = []
    with contextlib.redirect_stdout(io.StringIO()):
        for name in ("truth", "found"):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": i} for i in range(len(images))],
                "categories": [{"id": k} for k in range(CLASSES)],
                "annotations": [
                    dict(id=n, image_id=i, category_id=k, bbox=b, score=s, area=b[2] * b[3], iscrowd=c)
                    for n, (i, k, b, s, c) in enumerate(rows[name], 1)
                ],
            }
            coco.createIndex()
            sets.append(coco)
        evaluator = COCOeval(*sets, "bbox")
        evaluator.params.iouThrs = np.array([threshold])
        evaluator.params.maxDets = [1, 10, images[0][1].shape[1]]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][0, :, :, 0, -1]
    return precision[precision > -1].mean()


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9])
def test_ap_of_a_stage_is_that_of_pycocotools(threshold):
    rng = np.random.default_rng(7)
    images = [random_image(rng, 3, 20, dense=True) for _ in range(12)]
    errors = StageErrors(CLASSES, (threshold,))
    for i in reversed(range(12)):  # in any order
        scores, boxes, objects, _ = images[i]
        errors.add(i, scores, boxes, objects)
    official = [official_ap(images, stage, threshold) for stage in range(3)]
    assert errors.result().rows[0].ap_L == pytest.approx(official, abs=1e-12)
    assert 0 < min(official) < max(official) < 1


def test_of_objects_overlapped_equally_the_last_is_taken():
    """As in pycocotools: the second detection, right on that object, then finds it taken."""
    objects = Objects(np.array([[0.0, 0, 10, 10], [4, 0, 10, 10]]), np.array([1, 1]), np.zeros(2, dtype=bool))
    boxes = np.array([[[2.0, 0, 12, 10], [4, 0, 14, 10]]])
    scores = np.zeros((1, 2, CLASSES))
    scores[0, :, 1] = 0.9, 0.8
    errors = StageErrors(CLASSES, (0.5,))
    errors.add(0, scores, boxes, objects)
    row = errors.result().rows[0]
    assert (row.tp, row.fp, row.missed) == (1, 1, 1)
    assert row.ap_L[0] == pytest.approx(official_ap([(scores, boxes, objects, None)], 0, 0.5), abs=1e-12)


def test_processes_are_joined_by_image():
    images = random_case(2) + random_case(2)
    whole, parts = StageErrors(CLASSES), [StageErrors(CLASSES), StageErrors(CLASSES)]
    for i, (scores, boxes, objects, labels) in enumerate(images):
        whole.add(i, scores, boxes, objects, labels)
        parts[i % 2].add(i, scores, boxes, objects, labels)
    parts[1].add(0, *images[0])  # shown twice to fill up a shard
    parts[1].merge(parts[0])
    assert parts[1].result() == whole.result()


def test_worst_fadings_come_first():
    errors = StageErrors(CLASSES)
    for image, before in enumerate((0.6, 0.9, 0.4)):
        boxes = np.array([[HIT, MISS], [HIT, MISS]], dtype=float)
        errors.add(image, np.array([[before, 0.2], [0.5, 0.3]]), boxes, ONE_OBJECT, np.ones((2, 2), dtype=np.int64))
    assert [(image, f.drop_F.round(6).tolist()) for image, f in errors.worst(5)] == [(1, [0.4]), (0, [0.1])]
    image, fadings = errors.worst(1)[0]
    assert fadings.query_F.tolist() == [0] and fadings.score_LF[:, 0].tolist() == [0.9, 0.5]


def test_several_thresholds_are_added_up():
    errors = StageErrors(CLASSES, (0.5, 0.85))
    errors.add(
        0, np.array([[0.5], [0.4]]), np.array([[NEAR_HIT], [NEAR_HIT]], dtype=float), ONE_OBJECT, np.ones((2, 1), int)
    )
    report = errors.result()
    assert [row.ap_L for row in report.rows] == [[1.0, 1.0], [0.0, 0.0]]
    metrics = report.metrics()
    assert (metrics["AP_stage2"], metrics["TPF"], metrics["FPE"]) == (50.0, 100.0, 0.0)
    assert "0.5:0.85" in report.text() and report.to_dict()["overall"]["missed"] == 1


def test_a_threshold_that_is_named_twice_counts_once():
    assert one_query((HIT, 0.5, 1)) == StageRow([0.75], [1.0], 1.0, 1.0, 1, 0, 0, 0, 0, 0)
    errors = StageErrors(CLASSES, (0.75, 0.75))
    errors.add(0, np.array([[0.5]]), np.array([[HIT]], dtype=float), ONE_OBJECT, np.ones((1, 1), int))
    assert errors.result().overall() == one_query((HIT, 0.5, 1))


def test_bad_input_is_named():
    errors = StageErrors(CLASSES)
    with pytest.raises(ValueError, match=r"expected scores \(2, 4, 3\).*got scores \(2, 4, 5\)"):
        errors.add(0, np.zeros((2, 4, 5)), np.zeros((2, 4, 4)), NO_OBJECT)
    with pytest.raises(ValueError, match="between 0 and 1"):
        StageErrors(CLASSES, (75.0,))
    with pytest.raises(ValueError, match="no images"):
        errors.result()
