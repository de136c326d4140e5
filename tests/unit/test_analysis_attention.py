"""Gathering and dispersing: what is watched, its metrics, and `analyze attention`."""

from __future__ import annotations

import json
import math
import re

import narrow_run
import numpy as np
import pytest
import torch
from contract.hosts import HOSTS, LAYERS, QUERIES
from PIL import Image

from detrex_ext.analysis.attention import MOMENTS, Moment, _surroundings, gather, watch_attention
from detrex_ext.cli import dispatch
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.modeling.postprocess import class_scores


@pytest.mark.parametrize("host", ["deformable", "dino", "detr", "dab", "adamixer"])
@torch.no_grad()
def test_moments_are_those_of_the_protocol(host):
    model = HOSTS[host]().eval()
    decoder, generator, passes = model.decoder, torch.Generator().manual_seed(0), []
    batch = [{"image": torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)}]
    bare = model.forward_sets(batch)
    images, _ = model.inputs(batch)
    q, mem, _ = model.encode(images.images_B3HW, images.valid_hw_B2)
    mem = decoder.prepare(mem)
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    predictions, moments = watch_attention(model, batch)
    assert len(passes) == 1
    (one,), (other,) = predictions, model(batch)
    assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
    assert torch.equal(one["instances"].scores, other["instances"].scores)
    assert [(m.stage, m.name) for m in moments] == [(i + 1, name) for i in range(LAYERS) for name in MOMENTS]
    for after, b in zip(moments[2::3], (s for s in bare if s.group == "main" and s.stage >= 0), strict=True):
        assert torch.equal(after.score_QK, class_scores(b.logits_BQK[0], decoder.softmax))
        assert torch.equal(after.boxes_Q4, box_cxcywh_to_xyxy(b.boxes_BQ4[0]))
    x = decoder.condition(0, q, mem)
    for moment, at in zip(moments, (x, decoder.self_attend(0, x)), strict=False):
        logits, boxes, _ = decoder.predict(0, at, mem)
        assert torch.equal(moment.content_QC, at.content_BTC[0])
        torch.testing.assert_close(moment.score_QK, class_scores(logits[0], decoder.softmax))
        torch.testing.assert_close(moment.boxes_Q4, box_cxcywh_to_xyxy(boxes[0]))
    assert not torch.equal(moments[0].content_QC, moments[1].content_QC) and len(moments[0].boxes_Q4) == QUERIES


def test_metrics_of_the_nearest_queries_equal_loops():
    """Nearness is decided after cross-attention, at any stage."""
    g = torch.Generator().manual_seed(0)
    moments = []
    for i in range(6):
        low = 0.3 * torch.rand(7, 2, generator=g)
        boxes = torch.cat([low, low + 0.3 + 0.2 * torch.rand(7, 2, generator=g)], 1)
        moments.append(Moment(i // 3 + 1, MOMENTS[i % 3], torch.rand(7, 3, generator=g), boxes, torch.randn(7, 5)))
    box, label = torch.tensor([0.2, 0.2, 0.6, 0.6]), 2
    moments[0].boxes_Q4[4] = moments[5].boxes_Q4[1] = box  # before the stage it does not count
    moments[2].boxes_Q4[4] = moments[5].boxes_Q4[4] = torch.tensor([0.8, 0.8, 0.9, 0.9])

    def iou(a, b):
        wide, high = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
        area = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
        shared = max(wide, 0) * max(high, 0)
        return shared / (area - shared)

    overlaps = [[iou(q, box.tolist()) for q in m.boxes_Q4.tolist()] for m in moments]
    best = [max(overlaps[2][q], overlaps[5][q]) for q in range(7)]
    found = gather(moments, box, label, 0.5, 3)
    assert found.query_N.tolist() == sorted(range(7), key=lambda q: -best[q])[:3] and found.query_N[0] == 1
    for m, row, values in zip(moments, found.rows(), overlaps, strict=True):
        chosen = found.query_N.tolist()
        assert (row["stage"], row["moment"], row["near"]) == (m.stage, m.name, sum(v > 0.5 for v in values))
        assert row["iou"] == pytest.approx(sum(values[q] for q in chosen) / 3, abs=1e-5)
        assert row["score"] == pytest.approx(sum(float(m.score_QK[q, label]) for q in chosen) / 3, abs=1e-6)
        c = m.content_QC.tolist()
        cosines = [
            sum(x * y for x, y in zip(c[a], c[b], strict=True)) / math.hypot(*c[a]) / math.hypot(*c[b])
            for a in chosen
            for b in chosen
            if a != b
        ]
        assert row["similarity"] == pytest.approx(sum(cosines) / 6, abs=1e-6)


def test_surroundings_of_an_object_are_on_the_image():
    """Three times its longer side and 32 pixels at least; what is beyond the edge is left out."""
    for box, low, high in (
        ([40.0, 30, 60, 40], [20, 5], [80, 65]),
        ([0, 0, 20, 10], [0, 0], [40, 35]),
        ([99.9, 79.9, 100, 80], [83, 63], [100, 80]),
    ):
        found = _surroundings(np.array(box), 100, 80)
        assert [x.tolist() for x in found] == [low, high]


def test_an_image_is_drawn_stage_by_stage(tmp_path, capsys):
    run = narrow_run.write(tmp_path)
    image = sorted((tmp_path / "data" / "images").iterdir())[0]
    argv = ["analyze", "attention", str(run), str(image), "--device", "cpu", "--output", str(tmp_path / "a" / "b")]
    assert dispatch([*argv, "--object", "2", "--queries", "4"]) == 0
    shown = capsys.readouterr().out
    assert re.search(
        r"stage +near +iou +score +similarity\n1 before +\d+ +[\d.]+ +[\d.]+ +-?[\d.]+\n1 after self", shown
    )
    report = json.loads((tmp_path / "a" / "b" / "attention.json").read_text())
    assert len(report["moments"]) == 9 and len(set(report["queries"])) == 4 and len(report["box"]) == 4
    with Image.open(tmp_path / "a" / "b" / "attention.png") as drawn:
        assert min(drawn.size) > 3 * 300
    assert dispatch([*argv, "--object", "1000"]) == 2
    assert re.search(r"--object 1000: the model has \d+ detections on", capsys.readouterr().err)
    assert dispatch([*argv, "--queries", "1"]) == 2
    assert "--queries 1: expected" in capsys.readouterr().err
