"""The report of a run: its numbers, its causes, and that no name can make a browser do anything."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract.hosts import HOSTS, LAYERS
from data_sets import coco, write
from PIL import Image
from reported import EVIL, check_page, found_in, run_folder

from detrex_ext.analysis.sampling import Points, sampling_points
from detrex_ext.checkpoint import RunFolder
from detrex_ext.cli import dispatch
from detrex_ext.data.ground_truth import BoxTable, read_ground_truth
from detrex_ext.errors import UserError
from detrex_ext.evaluation.coco_metrics import coco_metrics
from detrex_ext.layers import ms_deform_attn, sampling_3d
from detrex_ext.report import Material, find_causes, matched, read_run, write_report
from detrex_ext.report.charts import Axis, Curve, chart
from detrex_ext.report.folder import RunFacts
from detrex_ext.report.html import el, table, text
from detrex_ext.report.kept import read_results
from detrex_ext.report.pictures import Pictures
from detrex_ext.report.stages import StageLook, point_panels
from detrex_ext.structures import SupervisedSet


def material_of(root) -> Material:
    truth, found = found_in(root)
    files = {i: str(root / "images" / image["file_name"]) for i, image in enumerate(truth.images)}
    detections = matched(truth, found, [0, 1, 2, 3])
    return Material(read_run(root / "run"), truth, files, detections, notes=[EVIL])


def test_a_page_with_strangers_names_holds_them_as_text_alone(tmp_path):
    run = run_folder(tmp_path)
    material, out = material_of(tmp_path), tmp_path / "page.html"
    assert write_report(material, out) == []
    page = check_page(out.read_text(encoding="utf-8"))
    assert page.text.count(EVIL) > 8 and "a<b>&'\".png" in page.text
    for words in ("41.5", "Precision and recall", "Confusion", "Worst images", "config small", "after 9 iterations"):
        assert words in page.text, words
    assert f"1.0{EVIL}" in page.text  # of the environment
    assert f"train --config-file {run} --resume" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 2  # the one image with an error, and its truth


def test_the_page_says_so_where_little_is_known(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text('{"iteration": 0, "total_loss": NaN}\n{"iteration": 1')
    (run / "evaluation.json").write_text('{"results": {"bbox": 3}, "iteration": "x"}')
    (run / "config.yaml").write_bytes(b"\xff\xfe a: !!python/object/apply:os.system ['true']")
    (run / "log.txt").write_bytes(b"\xff" * 100)
    facts = read_run(run)
    assert (facts.config, facts.series, facts.results["bbox"] if facts.results else {}) == ({}, {}, {})
    write_report(Material(facts), tmp_path / "page.html")
    page = check_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Nothing was evaluated" in page.text and "no metrics" in page.text


def test_texts_are_escaped_cut_and_of_whole_characters():
    assert text("<&\"'>") == "&lt;&amp;&quot;&#x27;&gt;" and text(el("b", "<")) == "<b>&lt;</b>"
    assert len(text("x" * 10**6)) < 3000
    assert text("a\x00\x1b\ud800") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}?"
    assert el("a", "x", title='"><script>') == '<a title="&quot;&gt;&lt;script&gt;">x</a>'
    assert "<script" not in table([["<script>"], ["<script>"]])


@pytest.mark.parametrize("points", [
    [(0, 0)], [(0, 5), (1, 5)], [(1e-300, 1e300), (1, 2e300)], [(0, -3), (10**9, 1e-9)],
    [(i, math.sin(i) + 2) for i in range(5000)], [(1, 1e-8), (2, 1e8)],
])  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_charts_of_any_values_stay_in_their_frame(points, log):
    drawn = chart("<t>", [Curve("<c>", points), Curve("none", [])], Axis("x"), Axis("y", log=log))
    page = check_page(drawn)
    assert "<t>" in page.text and len(drawn) < 20_000
    for tag, attrs in page.tags:
        if tag == "polyline":
            places = np.array([p.split(",") for p in attrs["points"].split()], dtype=float)
            assert (places >= 0).all() and (places <= [350, 230]).all()


def test_pictures_end_where_the_page_is_large_enough():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8))
    one = Pictures().img(noise, EVIL, 200)
    pictures = Pictures(most=2 * len(one))
    made = [pictures.img(noise, EVIL, 200) for _ in range(4)]
    assert made[:2] == [one, one] and all("left out" in x for x in made[2:]) and pictures.left_out == 2
    assert 'width="200"' in one and "<script" not in made[-1]


def crowded(seed, images=12, classes=3):
    rng = np.random.default_rng(seed)

    def boxes(n, truth):
        xywh = np.concatenate([rng.uniform(0, 60, (n, 2)), rng.uniform(8, 40, (n, 2))], 1)
        given = {"crowd_P": rng.random(n) < 0.1} if truth else {"score_P": rng.random(n)}
        return BoxTable(rng.integers(0, images, n), rng.integers(0, classes, n), xywh, **given)

    return boxes(40, True), boxes(300, False)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_point_is_that_of_the_evaluation(seed):
    truth, found = crowded(seed)
    order = np.argsort(truth.image_P, kind="stable")
    ends = np.searchsorted(truth.image_P[order], np.arange(13))

    def objects_of(image):
        rows = order[ends[image] : ends[image + 1]]
        return truth.xywh_P4[rows], truth.class_P[rows], truth.crowd_P[rows]

    stand_in = SimpleNamespace(objects_of=objects_of, classes=SimpleNamespace(names=["a", "b", "c"]))
    detections = matched(stand_in, found, list(range(12)))
    official = coco_metrics(truth, found, 12, 3, fast=False).f1.point
    for name in ("threshold", "f1", "precision", "recall"):
        assert getattr(detections.point, name) == pytest.approx(getattr(official, name), abs=1e-9, nan_ok=True), name
    confusion = detections.confusion()
    assert confusion[:-1].sum() == (~truth.crowd_P).sum()
    worst = [sum(x.errors(detections.threshold)) for x in detections.worst(5)]
    assert worst == sorted(worst, reverse=True) and len(worst) == 5 and worst[-1] > 0


def test_confusion_curve_and_missed_objects_by_hand(tmp_path):
    """Four objects of two classes: one right, one of the other class, one right, one missed by a shifted box."""
    write(tmp_path, coco())
    truth, found = found_in(tmp_path, classes=(0, 0, 0, 1))
    detections = matched(truth, found, [0, 1, 2, 3])
    assert detections.point.threshold == pytest.approx(0.65)
    assert detections.confusion().tolist() == [[2, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert detections.curve() == [(0.0, 1.0), (0.25, 1.0), (0.5, pytest.approx(2 / 3))]
    assert detections.area(any_class=True) == pytest.approx(0.75)
    assert detections.sides()[2].tolist() == [True, False, True, False]
    assert [x.image for x in detections.worst(9)] == [1, 3]


def facts(ap=0.1, losses=(), **config) -> RunFacts:
    made = RunFacts("run", config={key: str(value) for key, value in config.items()})
    made.results = {"bbox": {"AP": ap}}
    made.series = {"total_loss": list(enumerate(losses))} if losses else {}
    return made


def named(*args, **options) -> str:
    causes = find_causes(*args, **options)
    return causes[0].what if causes else ""


def many(count=40, predicted=lambda k: k, score=0.9):
    """So many objects of four classes, each found by a box of the class ``predicted`` gives, and their truth."""
    def objects_of(i):
        return np.array([[5.0, 5, 30, 30]]), np.array([i % 4]), np.array([False])

    truth = SimpleNamespace(objects_of=objects_of, classes=SimpleNamespace(names=list("abcd")))
    truth.boxes = BoxTable(np.arange(count), np.arange(count) % 4, np.tile([5.0, 5, 30, 30], (count, 1)))
    labels = np.array([predicted(i % 4) for i in range(count)])
    found = BoxTable(np.arange(count), labels, truth.boxes.xywh_P4, np.full(count, score))
    return truth, matched(truth, found, list(range(count)))


def test_causes_are_named(tmp_path):
    rng = np.random.default_rng(0)
    truth, shuffled = many(predicted=lambda k: int(rng.integers(4)))
    assert named(facts(5), truth, shuffled, None) == "labels that do not say what is on the images"
    swapped = find_causes(facts(), *many(predicted=lambda k: (k + 1) % 4), None)[0]
    assert swapped.what == "classes are exchanged" and "a is told as b" in swapped.shown_by
    truth, good = many()
    assert find_causes(facts(60), truth, good, None) == []
    truth.boxes.xywh_P4 = truth.boxes.xywh_P4 / 100
    assert named(facts(), truth, good, None) == "boxes that are no pixels"
    diverged = facts(losses=[20, 300, 4000, 5000], **{"optimizer.lr": 10.0})
    assert named(diverged, None, None, None) == "the training did not get anywhere"
    diverged.changed = {"optimizer.lr": ("0.001", "10")}
    (cause,) = find_causes(diverged, None, None, None)
    assert cause.what == "the learning rate is too high" and "10,000 times" in cause.shown_by
    assert cause.to_do == "optimizer.lr=0.001" and "\n" not in str(cause)
    assert named(facts(losses=[20, 15, 12, 9]), None, None, None) == "not trained for long enough"
    diverged.non_finite = tmp_path / "non_finite.pth"
    assert named(diverged, None, None, None) == "a loss was not finite"
    (cause,) = find_causes(facts(losses=[20]), None, None, None)
    assert cause.what == "hardly trained" and cause.shown_by == "metrics.json has 1 line of losses"
    assert named(facts(70, [20, 9, 5, 3]), None, None, None, least_ap=90.0) == "not trained for long enough"


def looked(root, boxes_Q4, logits_Q2, images=(0, 1)) -> StageLook:
    look = StageLook(read_ground_truth(write(root, coco())))
    for image in images:
        logits, boxes = torch.tensor(logits_Q2)[None], torch.tensor(boxes_Q4)[None]
        sets = [SupervisedSet(logits, boxes, stage) for stage in (0, 1)]
        given = {"image_id": 5 + image, "file_name": f"{image}.png"}
        look.process([given], [{"instances": SimpleNamespace(image_size=(40, 60))}], sets)
    return look


def test_collapsed_and_frozen_queries_and_flat_scores_are_told(tmp_path):
    """The object is [4, 6, 20, 10] of 60 x 40 pixels, of class 10 on the first image and 20 on the second."""
    right, other, far = [14 / 60, 11 / 40, 20 / 60, 10 / 40], [0.8, 0.8, 0.1, 0.1], [0.8, 0.3, 0.1, 0.1]
    look = looked(tmp_path, [right, other, far], [[3.0, -3.0], [-3.0, -3.0], [-3.0, -3.0]])
    assert look.recall_L().tolist() == [1, 1] and look.right_share() == 0.5 and look.objects == 2
    assert np.mean(look.same) == 0 and np.mean(look.frozen) == 1
    assert look.score_range()[2] == pytest.approx(1 / (1 + math.exp(-3)))
    assert named(facts(), None, None, look) == "the model does not look at the image"
    look.frozen = []
    told = find_causes(facts(), None, None, look)[0]
    assert told.what.startswith("boxes are found") and "100 %" in told.shown_by
    same = looked(tmp_path, [other, other, other], [[0.0, 0.0]] * 3)
    assert named(facts(), None, None, same) == "queries have collapsed"
    (first, second) = look.worst(2)
    assert first.boxes_LF4.shape == (2, 3, 4) and not first.faded_F.any() and {first.image, second.image} == {0, 1}


def test_points_far_away_or_of_no_number_are_drawn_or_left_out():
    box, image = np.array([0.4, 0.4, 0.6, 0.6]), np.zeros((30, 50, 3), np.uint8)
    far = Points(box, box[::-1].copy(), np.array([[1e30, -np.inf], [0.5, 0.5]]), np.array([np.nan, 1.0]))
    none = Points(box, box * np.nan, np.array([[0.5, 0.5]]), np.ones(1))
    (panel,) = point_panels(image, [far, none])
    assert max(panel.size) >= 340 and point_panels(image, [none]) == []


@pytest.mark.parametrize("host", ["deformable", "adamixer", "detr"])
@torch.no_grad()
def test_sampling_points_are_those_that_the_host_samples(host, monkeypatch):
    model, generator = HOSTS[host]().eval(), torch.Generator().manual_seed(0)
    batch = [{"image": torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)}]
    stages = sampling_points(model, batch)
    if host == "detr":
        assert stages == []
        return
    seen = []

    def watched(value, shapes, at, weight, backend="auto"):
        seen.append(at[0])
        return sample(value, shapes, at, weight, backend)

    sample = ms_deform_attn.ms_deform_attn
    for module in (ms_deform_attn, sampling_3d):
        monkeypatch.setattr(module, "ms_deform_attn", watched)
    last = model(batch)[0]["instances"]
    assert len(stages) == LAYERS
    best = np.array(stages[-1].after_4 * [96, 64, 96, 64]).clip(0, [96, 64, 96, 64])
    assert np.allclose(last.pred_boxes.tensor[0].numpy(), best, atol=1e-3)
    for points, at in zip(stages, seen[-LAYERS:], strict=True):
        assert points.at_N2.shape == (len(points.weight_N), 2)
        if host == "deformable":  # tokens x all points, as shares of the image
            apart = at.reshape(len(at), -1, 2).numpy() - points.at_N2
            assert np.abs(apart).max((1, 2)).min() < 1e-4
            assert points.weight_N.sum() == pytest.approx(model.decoder.layers[0].attentions[1].num_heads, abs=1e-4)


def test_the_verb_makes_a_page_of_what_there_is(tmp_path, capsys):
    run = run_folder(tmp_path)
    assert dispatch(["report", str(run), "--no-predictions"]) == 0
    assert RunFolder(run).report.name in capsys.readouterr().out
    check_page(RunFolder(run).report.read_text(encoding="utf-8"))
    assert dispatch(["report", str(run), "--output", str(tmp_path / "other.html")]) == 0  # no model: said, and no error
    said = capsys.readouterr().err
    assert "without predictions" in said and "No predictions" in (tmp_path / "other.html").read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for words in (["empty"], ["nowhere"], ["run", "--output", str(tmp_path)]):
        assert dispatch(["report", str(tmp_path / words[0]), *words[1:]]) == 2
        assert "Traceback" not in capsys.readouterr().err
    RunFolder(run).remove_results()
    assert not RunFolder(run).report.exists()


@pytest.mark.parametrize("content", [
    "", "[", "{}", "[[]]", "[3]", '[{"image_id": 5}]', '[{"image_id": [], "category_id": 10, "bbox": [], "score": 1}]',
    '[{"image_id": 5, "category_id": 99, "bbox": [1, 2, 3, 4], "score": 1}]',
    '[{"image_id": 5, "category_id": 10, "bbox": [1, 2, 3], "score": 1}]',
    '[{"image_id": 5, "category_id": 10, "bbox": [1, 2, 3, NaN], "score": 1}]', "[" * 10_000,
])  # fmt: skip
def test_kept_detections_of_something_else_are_refused(tmp_path, content):
    truth = read_ground_truth(write(tmp_path, coco(), images=False))
    (tmp_path / "kept.json").write_text(content)
    if content == "{}":
        assert len(read_results(tmp_path / "kept.json", truth).image_P) == 0
        return
    with pytest.raises(UserError, match="kept.json"):
        read_results(tmp_path / "kept.json", truth)


def test_kept_detections_are_read(tmp_path):
    truth = read_ground_truth(write(tmp_path, coco(), images=False))
    rows = [{"image_id": 6, "category_id": 20, "bbox": [1, 2, 3, 4], "score": 0.5}]
    (tmp_path / "kept.json").write_text(json.dumps(rows))
    found = read_results(tmp_path / "kept.json", truth)
    assert (found.image_P.tolist(), found.class_P.tolist(), found.score_P.tolist()) == ([1], [1], [0.5])
    assert found.xywh_P4.tolist() == [[1, 2, 3, 4]]
