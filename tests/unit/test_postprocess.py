from __future__ import annotations

import pytest
import torch

from detrex_ext.modeling.postprocess import Postprocess, top_candidates
from detrex_ext.structures import Given, SupervisedSet


def _set(batch=2, queries=6, classes=3, stage=0, **kwargs):
    torch.manual_seed(stage)
    boxes = torch.cat([torch.rand(batch, queries, 2), 0.05 + 0.3 * torch.rand(batch, queries, 2)], -1)
    return SupervisedSet(torch.randn(batch, queries, classes), boxes, stage, **kwargs)


SIZES = [{"height": 100, "width": 200}, {"height": 50, "width": 40}]
HW = torch.tensor([[30.0, 60.0], [25.0, 20.0]])


def test_best_pairs_of_all_queries_and_classes_in_order():
    s = _set()
    results = Postprocess(top_k=5)([s], HW, SIZES)
    for b, (result, size) in enumerate(zip(results, SIZES, strict=True)):
        got = result["instances"]
        h, w = size["height"], size["width"]
        pairs = [
            (s.logits_BQK[b, q, k].sigmoid().item(), q, k) for q in range(6) for k in range(3)
        ]
        pairs.sort(reverse=True)
        assert got.image_size == (h, w)
        assert got.scores.tolist() == pytest.approx([p[0] for p in pairs[:5]])
        assert got.pred_classes.tolist() == [p[2] for p in pairs[:5]]
        for box, (_, q, _) in zip(got.pred_boxes.tensor, pairs, strict=False):
            cx, cy, bw, bh = s.boxes_BQ4[b, q].tolist()
            want = [(cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h]
            want = [min(max(v, 0), m) for v, m in zip(want, (w, h, w, h), strict=True)]
            assert box.tolist() == pytest.approx(want, abs=1e-4)


def test_last_plain_main_set_is_used_and_not_changed():
    last = _set(stage=3)
    sets = [last, _set(stage=1), _set(stage=4, group="dn"), _set(stage=5, path="aux"), _set(stage=-1, group="enc")]
    before = [(s.logits_BQK.clone(), s.boxes_BQ4.clone()) for s in sets]
    got = Postprocess()(sets, HW, SIZES)
    want = Postprocess()([last], HW, SIZES)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
    for s, (logits, boxes) in zip(sets, before, strict=True):
        assert torch.equal(s.logits_BQK, logits) and torch.equal(s.boxes_BQ4, boxes)
    with pytest.raises(ValueError, match="no main set among"):
        Postprocess()(sets[2:], HW, SIZES)


def test_size_of_the_input_is_the_output_size_where_none_is_named():
    results = Postprocess()([_set()], HW, [{}, {"height": 50, "width": 40}])
    assert [r["instances"].image_size for r in results] == [(30, 60), (50, 40)]


def test_boxes_outside_the_image_are_clipped_or_dropped():
    s = _set(1, 3, 1)
    s.logits_BQK[0, :, 0] = torch.tensor([2.0, 1.0, 0.0])
    s.boxes_BQ4[0] = torch.tensor([[0.0, 0.5, 0.5, 2.0], [1.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.0, 0.2]])
    got = Postprocess()([s], HW[:1], SIZES[:1])[0]["instances"]
    assert got.pred_boxes.tensor.tolist() == [[0, 0, 50, 100]]
    assert got.scores.tolist() == pytest.approx([torch.tensor(2.0).sigmoid().item()])


def test_softmax_leaves_out_the_last_class_and_takes_each_query_once():
    logits = torch.randn(2, 7, 4)
    scores, labels, query = top_candidates(logits, None, softmax=True)
    prob = logits.softmax(-1)[..., :-1]
    assert labels.max() < 3
    for b in range(2):
        assert sorted(query[b].tolist()) == list(range(7))
        assert scores[b].tolist() == sorted(scores[b].tolist(), reverse=True)
        for s, k, q in zip(scores[b], labels[b], query[b], strict=True):
            assert s == prob[b, q, k] and s == prob[b, q].max()


def test_fewer_pairs_than_top_k_and_no_queries():
    assert len(Postprocess(300)([_set(1, 6, 3)], HW[:1], SIZES[:1])[0]["instances"]) == 18
    assert len(Postprocess(300)([_set(1, 0, 3)], HW[:1], SIZES[:1])[0]["instances"]) == 0


@pytest.mark.parametrize("where", ["boxes", "logits"])
def test_predictions_that_are_not_finite_are_refused_with_the_file_names(where):
    s = _set(1)
    (s.boxes_BQ4 if where == "boxes" else s.logits_BQK)[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="street.jpg"):
        Postprocess()([s], HW[:1], [{"file_name": "street.jpg", **SIZES[0]}])


def greedy(rows, iou, top_k, class_agnostic):
    """Suppression as it is defined; rows are (score, class, xyxy) by descending score."""
    kept = []
    for row in rows:
        rivals = [k for k in kept if class_agnostic or k[1] == row[1]]
        if all(overlap(row[2], k[2]) <= iou for k in rivals):
            kept.append(row)
    return kept[:top_k]


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(w, 0) * max(h, 0)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("iou, top_k", [(0.3, 50), (0.6, 5)])
def test_duplicates_are_dropped_before_the_best_are_taken(iou, top_k, class_agnostic):
    s = _set(2, 40, 3)
    s.boxes_BQ4[:] = 0.3 + 0.4 * s.boxes_BQ4
    results = Postprocess(top_k, nms=iou, class_agnostic=class_agnostic)([s], HW, SIZES)
    for b, result in enumerate(results):
        h, w = SIZES[b]["height"], SIZES[b]["width"]
        rows = []
        for q, (cx, cy, bw, bh) in enumerate(s.boxes_BQ4[b].tolist()):
            xyxy = [(cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h]
            rows += [(s.logits_BQK[b, q, k].sigmoid().item(), k, xyxy) for k in range(3)]
        rows = greedy(sorted(rows, reverse=True), iou, top_k, class_agnostic)
        assert 0 < len(rows) < 120
        got = result["instances"]
        assert got.scores.tolist() == pytest.approx([r[0] for r in rows])
        assert got.pred_classes.tolist() == [r[1] for r in rows]
        torch.testing.assert_close(got.pred_boxes.tensor, torch.tensor([r[2] for r in rows]), rtol=0, atol=1e-3)


def test_suppression_is_off_unless_asked_for_and_looks_at_the_best_pairs():
    s = _set(1, 6, 1)
    s.boxes_BQ4[:] = s.boxes_BQ4[:, :1].clone()
    best = s.logits_BQK.sigmoid().max().item()
    assert len(Postprocess()([s], HW[:1], SIZES[:1])[0]["instances"]) == 6
    for post in (Postprocess(nms=0.5), Postprocess(None, nms=0.5)):
        assert post([s], HW[:1], SIZES[:1])[0]["instances"].scores.tolist() == pytest.approx([best])
    s.boxes_BQ4[0, :, 0] = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 0.2])
    assert len(Postprocess(nms=1.0, nms_of=4)([s], HW[:1], SIZES[:1])[0]["instances"]) == 4
    with pytest.raises(ValueError, match="between 0 and 1"):
        Postprocess(nms=80)


def test_padding_queries_are_no_predictions():
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[0, 1:] = False
    given = Given(valid_BQ=valid)
    padded, plain = _set(given=given), _set()
    padded.logits_BQK[0, 1:] = 50.0
    for options in ({}, {"nms": 0.6}, {"root": True}):
        results = Postprocess(top_k=10, **options)([padded], HW, SIZES)
        assert len(results[0]["instances"]) == 3
        one = SupervisedSet(plain.logits_BQK[:1, :1], plain.boxes_BQ4[:1, :1], 0)
        alone = Postprocess(top_k=10, **options)([one], HW[:1], SIZES[:1])[0]["instances"]
        torch.testing.assert_close(results[0]["instances"].pred_boxes.tensor, alone.pred_boxes.tensor)
        whole = Postprocess(top_k=10, **options)([plain], HW, SIZES)[1]["instances"]
        torch.testing.assert_close(results[1]["instances"].scores, whole.scores)


def test_roots_of_scores_keep_their_order():
    plain, root = (Postprocess(top_k=7, nms=0.6, root=on)([_set()], HW, SIZES)[0]["instances"] for on in (False, True))
    torch.testing.assert_close(root.scores, plain.scores.sqrt())
    assert torch.equal(root.pred_boxes.tensor, plain.pred_boxes.tensor)
    assert torch.equal(root.pred_classes, plain.pred_classes)
