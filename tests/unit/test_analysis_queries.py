"""Queries per object: against counting one pair at a time, and the streams of a decoder."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from contract.hosts import HOSTS, LAYERS, QUERIES
from data_sets import coco, write

from detrex_ext.analysis.queries import QueriesPerObject, QueryEvaluator, QueryReport, Streams, affinity
from detrex_ext.errors import UserError
from detrex_ext.evaluation import inference_on_dataset
from detrex_ext.matching.stack import stack_sets
from detrex_ext.strategies import DivideAndConquer
from detrex_ext.structures import SupervisedSet, Targets

THRESHOLDS = (0.2, 0.4, 0.5, 0.7)


def slow(kind, logits, boxes, label, true, softmax):
    """Affinity of one query and one object, in plain numbers."""
    if softmax:
        p = math.exp(logits[label]) / sum(map(math.exp, logits))
    else:
        p = 1 / (1 + math.exp(-logits[label]))
    (ax, ay, aw, ah), (bx, by, bw, bh) = boxes, true
    wide = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    high = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    shared = wide * high if wide > 0 and high > 0 else 0.0
    iou = shared / (aw * ah + bw * bh - shared)
    return {"mix": 0.7 * iou + 0.3 * p, "iou": iou, "aligned": p**0.25 * iou**0.75}[kind]


def random_case(seed, N=None):
    """Sets of images whose queries are mostly near an object; some images have none."""
    g, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    N = seed % 3 + 1 if N is None else N
    B, Q, K = rng.randint(1, 3), rng.randint(1, 9), rng.randint(1, 4)
    softmax = rng.random() < 0.3
    counts = [rng.randint(0, 4) for _ in range(B)]
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    true = tuple(0.2 + 0.3 * torch.rand(n, 4, generator=g, dtype=torch.float64) for n in counts)
    boxes = 0.2 + 0.3 * torch.rand(N, B, Q, 4, generator=g, dtype=torch.float64)
    for b, n in enumerate(counts):
        for q in range(Q if n else 0):
            boxes[:, b, q] = true[b][rng.randrange(n)] + rng.choice((0.0, 0.01, 0.05)) * boxes[:, b, q]
    logits = 3 * torch.randn(N, B, Q, K + softmax, generator=g, dtype=torch.float64)
    sets = [SupervisedSet(x, y, stage, softmax=softmax) for stage, (x, y) in enumerate(zip(logits, boxes, strict=True))]
    return sets, Targets(labels, true, torch.ones(B, 2))


@pytest.mark.parametrize("kind", ["mix", "iou", "aligned"])
def test_equal_to_counting_one_pair_at_a_time(kind):
    seen = [0] * len(THRESHOLDS)
    for seed in range(100):
        batches = [random_case(seed), random_case(1000 + seed, seed % 3 + 1)]
        fast, image, objects = QueriesPerObject(THRESHOLDS), 0, 0
        above = [[0] * len(THRESHOLDS) for _ in batches[0][0]]
        best = [0.0 for _ in batches[0][0]]
        for sets, targets in batches:
            images = list(range(image, image + len(targets.labels)))
            image += len(images)
            fast.add(images, affinity(stack_sets(sets), targets, kind), targets)
            objects += targets.num
            for n, s in enumerate(sets):
                for b, (labels, boxes) in enumerate(zip(targets.labels, targets.boxes, strict=True)):
                    for label, box in zip(labels.tolist(), boxes.tolist(), strict=True):
                        pairs = zip(s.logits_BQK[b].tolist(), s.boxes_BQ4[b].tolist(), strict=True)
                        values = [slow(kind, x, y, label, box, s.softmax) for x, y in pairs]
                        best[n] += max(values)
                        for t, threshold in enumerate(THRESHOLDS):
                            above[n][t] += sum(value > threshold for value in values)
        if not objects:
            with pytest.raises(ValueError, match="of no objects"):
                fast.result()
            continue
        above_NT, best_N = fast.result()
        assert (above_NT * objects).round().tolist() == above, seed
        assert best_N.tolist() == pytest.approx([x / objects for x in best], abs=1e-9)
        seen = [x + y for x, y in zip(seen, above[0], strict=True)]
    assert min(seen) > 50 and max(seen) > 1.2 * min(seen), seen  # the cases are not empty


def test_images_count_once():
    sets, targets = next(c for c in map(random_case, range(50)) if c[1].num and len(c[1].labels) == 2)
    values = affinity(stack_sets(sets), targets)
    once, twice, other = (QueriesPerObject(THRESHOLDS) for _ in range(3))
    once.add([3, 4], values, targets)
    twice.add([3, 4], values, targets)
    other.add([4, 3], values, targets)
    twice.merge(other)
    assert twice.objects == once.objects == targets.num
    assert torch.equal(twice.result()[0], once.result()[0])


def test_an_affinity_of_the_threshold_itself_does_not_count():
    one = QueriesPerObject((0.5,))
    one.add(
        [0], torch.tensor([[[0.5, 0.75, 0.25]]]), Targets((torch.tensor([0]),), (torch.ones(1, 4),), torch.ones(1, 2))
    )
    above, best = one.result()
    assert (above.item(), best.item()) == (1, 0.75)


@pytest.fixture
def data(tmp_path):
    """Three images of four classes; the first has one more object in a crowd region, the second none."""
    found = coco(3, 4, (64, 96))
    del found["annotations"][1]
    found["annotations"].append({**found["annotations"][0], "id": 1, "iscrowd": 1})
    return write(tmp_path, found, images=False)


def inputs(image=5):
    generator = torch.Generator().manual_seed(image)
    pixels = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    return [{"image": pixels, "image_id": image, "height": 64, "width": 96}]


@pytest.mark.parametrize("host", ["deformable", "dino", "detr", "adamixer"])
@torch.no_grad()
def test_streams_are_those_of_a_training_without_chance(host):
    """The auxiliary stream is divide-and-conquer's own, and the plain path and what is predicted stay."""
    model = HOSTS[host]().eval()
    bare = model.forward_sets(inputs())
    sets = model.forward_sets(inputs(), [Streams(("main", "aux", "no_sa"))])
    for start, path in (("shared", "aux"), ("init", "no_sa")):
        trained = model.forward_sets(inputs(), [DivideAndConquer(start=start)])
        wanted = [s for s in trained if (s.group, s.path) == ("main", "aux")]
        found = [s for s in sets if s.path == path]
        assert len(found) == len(wanted) == LAYERS
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.boxes_BQ4, b.boxes_BQ4, rtol=0, atol=1e-5)
            torch.testing.assert_close(a.logits_BQK, b.logits_BQK, rtol=0, atol=1e-5)
    plain = [[s for s in some if (s.group, s.path) == ("main", "plain") and s.stage >= 0] for some in (sets, bare)]
    for a, b in zip(*plain, strict=True):
        torch.testing.assert_close(a.logits_BQK, b.logits_BQK, rtol=0, atol=1e-5)
    last = {s.path: s.logits_BQK for s in sets if s.group == "main" and s.stage == LAYERS - 1}
    assert (last["plain"] - last["aux"]).abs().max() > 1e-3 < (last["aux"] - last["no_sa"]).abs().max()


def test_figures_of_an_evaluation(data, tmp_path):
    """Equal to what the sets of each stream give by hand; crowd regions are no objects."""
    model = HOSTS["deformable, refine"]().eval()
    loader = [inputs(image) for image in (5, 6, 7)]
    file = tmp_path / "new" / "figures.json"
    evaluator = QueryEvaluator(data, (0.1, 0.2), streams=("no_sa", "main"), output=file)
    figures = inference_on_dataset(model, loader, evaluator)["queries"]
    assert list(figures) == ["no_sa>0.1", "no_sa>0.2", "no_sa_best", "main>0.1", "main>0.2", "main_best"]
    found = json.loads(file.read_text())
    assert (found["images"], found["objects"]) == (3, 2)
    box = torch.tensor([[14 / 96, 11 / 64, 20 / 96, 10 / 64]])
    by_hand, none = QueriesPerObject((0.1, 0.2)), (torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))
    for image, batch in enumerate(loader):
        with torch.no_grad():
            sets = [s for s in model.forward_sets(batch) if s.group == "main" and s.stage >= 0]
        label = torch.tensor([image]) if image != 1 else none[0]
        targets = Targets((label,), (box if image != 1 else none[1],), torch.ones(1, 2))
        by_hand.add([image], affinity(stack_sets(sets), targets), targets)
    above, best = by_hand.result()
    assert torch.allclose(torch.tensor(found["above"]["main"]).double(), above)
    assert torch.allclose(torch.tensor(found["best"]["main"]).double(), best, atol=1e-6)
    assert figures["main>0.1"] == found["above"]["main"][-1][0] <= QUERIES
    assert figures["no_sa_best"] != figures["main_best"]


def test_an_affinity_or_stream_of_no_known_name_is_refused(data):
    with pytest.raises(ValueError, match="affinity must be one of mix, iou, aligned, got 'IoU'"):
        affinity(None, None, "IoU")
    with pytest.raises(ValueError, match="streams are some of main, aux, no_sa, got main, dn"):
        QueryEvaluator(data, streams=("main", "dn"))


def test_a_model_without_stages_is_refused(data):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="which Linear does not give"):
        inference_on_dataset(model, [], QueryEvaluator(data))
    model.predict_sets = None
    with pytest.raises(UserError, match="staged decoder; the decoder of Linear is NoneType"):
        inference_on_dataset(model, [], QueryEvaluator(data))


def test_runs_that_count_something_else_are_not_compared():
    rows = [{"checkpoint": "a/m.pth", "iteration": 1, "above": {"main": [[1.0]]}, "best": {"main": [0.5]}}]
    report = QueryReport("a", "mix", [0.5], ["main"], rows)
    assert report.curves(None, "main") == ("stage", [1], [[1.0], [0.5]])
    with pytest.raises(UserError, match=r"b cannot be drawn beside a: affinity iou, not mix"):
        report.check_like(QueryReport("b", "iou", [0.5], ["main"], rows))
    with pytest.raises(UserError, match=r"curves over checkpoints, not over stages"):
        report.check_like(QueryReport("b", "mix", [0.5], ["main"], [*rows, *rows]))
    with pytest.raises(UserError, match=r"--stage 2: the decoder of a has stages 1 to 1"):
        report.text(2)
