"""Collaborative heads: their losses by formulas, which positives become queries, and that groups are apart."""

from __future__ import annotations

import math

import pytest
import torch
from contract.hosts import CLASSES, HOSTS

from detrex_ext.config import load_config
from detrex_ext.criterion import SetCriterion, atss_rule, detr_rules, region_rule
from detrex_ext.modeling.encoders import ATSSHead, RoIHead
from detrex_ext.modeling.queries import positive
from detrex_ext.modeling.queries.positive import LEAST, choose
from detrex_ext.runtime import instantiate
from detrex_ext.strategies import CollaborativeHeads, collaborative
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets
from detrex_ext.testing import example_batch
from detrex_ext.testing.passes import entering


def dino(**options):
    torch.manual_seed(0)
    model = HOSTS["dino"]().train()
    model.use({"co": CollaborativeHeads(**options)})
    return model


def giou(a, b):
    """Of two cxcywh boxes."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a.tolist(), b.tolist())
    )
    inner = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return inner / union - (hull - union) / hull


def sigmoid(x):
    return 1 / (1 + math.exp(-float(x)))


def test_losses_of_the_dense_head_by_their_formulas():
    """Focal, GIoU by centerness, and centerness; an image without a positive counts as one, a padded anchor not."""
    torch.manual_seed(0)
    targets = Targets(
        (torch.tensor([1, 0]), torch.zeros(0, dtype=torch.int64)),
        (torch.tensor([[0.4, 0.5, 0.4, 0.6], [0.7, 0.3, 0.3, 0.2]], dtype=torch.float64), torch.zeros(0, 4)),
        torch.tensor([[60.0, 80.0], [60.0, 80.0]], dtype=torch.float64),
    )
    gt = torch.tensor([[0, -1, 1, 0, -1], [-1] * 5])
    valid = torch.tensor([[True, True, True, True, False], [True] * 5])
    points = torch.rand(2, 5, 2, dtype=torch.float64) * 0.1 + torch.tensor([0.4, 0.5])
    points[0, 2] = torch.tensor([0.65, 0.32])
    logits, raw = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    boxes = torch.rand(2, 5, 4, dtype=torch.float64) * 0.3 + 0.3
    given = Given(prior=Prior(None, points, torch.full((2, 5), 8.0), gt), valid_BQ=valid)
    one = SupervisedSet(logits, boxes, -1, "atss", "head", given, outputs={"centerness": raw})
    found = SetCriterion([atss_rule(12.0, 24.0, 12.0)])([one], targets)
    focal = by_box = by_center = total = 0.0
    for b, q in ((b, q) for b in range(2) for q in range(5)):
        for k in range(3) if valid[b, q] else ():
            p, g = sigmoid(logits[b, q, k]), int(gt[b, q])
            hit = g >= 0 and int(targets.labels_G[g]) == k
            focal += -0.25 * (1 - p) ** 2 * math.log(p) if hit else -0.75 * p**2 * math.log(1 - p)
        if gt[b, q] >= 0:
            cx, cy, w, h = targets.boxes_G4[gt[b, q]].tolist()
            x, y = points[b, q].tolist()
            left, top, right, bottom = x - cx + w / 2, y - cy + h / 2, cx + w / 2 - x, cy + h / 2 - y
            c = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            total += c
            by_box += c * (1 - giou(boxes[b, q], targets.boxes_G4[gt[b, q]]))
            p = sigmoid(raw[b, q])
            by_center += -c * math.log(p) - (1 - c) * math.log(1 - p)
    assert found["loss_class_atss_head"].item() == pytest.approx(12 * focal / 4)  # three positives and an image
    assert found["loss_giou_atss_head"].item() == pytest.approx(24 * by_box / max(total, 1))
    assert found["loss_centerness_atss_head"].item() == pytest.approx(12 * by_center / 4)


def test_losses_of_regions_by_their_formulas():
    torch.manual_seed(1)
    boxes = torch.tensor([[0.4, 0.5, 0.4, 0.6]], dtype=torch.float64)
    targets = Targets((torch.tensor([1]),), (boxes,), torch.tensor([[60.0, 80.0]], dtype=torch.float64))
    gt, valid = torch.tensor([[-1, 0, 0, -1]]), torch.tensor([[True, True, True, False]])
    logits = torch.randn(1, 4, 3, dtype=torch.float64)
    moved = torch.rand(1, 4, 2, 4, dtype=torch.float64).sort(-1).values[..., [0, 1, 2, 3]]
    given = Given(prior=Prior(boxes.expand(1, 4, 4), candidate_gt_BQ=gt), valid_BQ=valid)
    tags = {"softmax": True, "outputs": {"class_boxes": moved}}
    one = SupervisedSet(logits, boxes.expand(1, 4, 4), -1, "roi", "head", given, **tags)
    found = SetCriterion([region_rule(12.0, 120.0)])([one], targets)
    log_p = logits.log_softmax(-1)[0]
    entropy = -(log_p[0, 2] + log_p[1, 1] + log_p[2, 1]) / 3
    x0, y0, x1, y1 = moved[0, :, 1].unbind(-1)
    predicted = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)
    by_box = sum(1 - giou(predicted[q], boxes[0]) for q in (1, 2)) / 3
    assert found["loss_class_roi_head"].item() == pytest.approx(12 * entropy.item(), rel=1e-5)
    assert found["loss_giou_roi_head"].item() == pytest.approx(120 * by_box, rel=1e-5)


def places(counts, total=40, padded=0):
    """What a head knows: so many places of an image have an object, and the last ones are none of the image."""
    torch.manual_seed(sum(counts))
    gt = torch.stack([torch.where(torch.randperm(total - padded) < n, 3, -1) for n in counts])
    gt = torch.nn.functional.pad(gt, (0, padded), value=-1)
    valid = (torch.arange(total) < total - padded).expand_as(gt)
    return Given(prior=Prior(candidate_gt_BQ=gt), valid_BQ=valid)


@pytest.mark.parametrize("counts, number, expected", [
    ((12, 3), 300, 12), ((0, 0), 300, LEAST), ((1, 2), 300, LEAST), ((30, 25), 20, 20), ((4, 2), 5, 5), ((3, 1), 1, 1),
])  # fmt: skip
@pytest.mark.parametrize("looking", [True, False])
def test_which_places_become_queries(counts, number, expected, looking, monkeypatch):
    monkeypatch.setattr(positive, "looked_at", lambda x: looking)
    given = places(counts, padded=6)
    index, valid = choose(given, number, 36)
    assert index.shape[1] == (expected if looking else min(number, 36))
    assert (valid.sum(1) == expected).all()
    for b, count in enumerate(counts):
        chosen = index[b][valid[b]]
        assert len({*chosen.tolist()}) == expected and given.valid_BQ[b, chosen].all()
        assert (given.prior.candidate_gt_BQ[b, chosen] >= 0).sum() == min(count, expected)
    drawn = [choose(given, 5, 36)[0] for _ in range(8)]
    assert len({tuple(sorted(x[0].tolist())) for x in drawn}) > 1 or counts[0] == 5


def test_an_image_of_fewer_places_is_filled_up():
    index, valid = choose(places((2, 0), total=12, padded=8), 300, 10)
    assert index.shape == (2, LEAST) and (valid.sum(1) == 4).all()


@pytest.mark.parametrize("heads", [("atss",), ("roi", "atss")], ids=str)
def test_a_step_is_the_same_where_no_value_may_be_looked_at(heads, monkeypatch):
    """Queries that fill up are seen by none and are not supervised."""
    found = []
    for looking in (True, False):
        for module in (positive, collaborative):
            monkeypatch.setattr(module, "looked_at", lambda x, looking=looking: looking)
        model = dino(heads=heads).double()
        torch.manual_seed(0)
        losses = model(example_batch(CLASSES, (3, 1)))
        sum(losses.values()).backward()
        found.append(({k: v.item() for k, v in losses.items()}, [p.grad for p in model.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_queries_are_supervised_with_the_object_of_their_positive_and_groups_are_apart():
    model, batch = dino(heads=("atss", "roi")), example_batch(CLASSES, (3, 1))
    torch.manual_seed(0)
    mem, stages = entering(model, batch)
    q = stages[0][1]
    assert [s.group for s in q.slots] == ["atss", "roi", "dn", "main"]
    assert len({s.domain for s in q.slots}) == 3  # denoising and main queries share theirs
    targets = model.inputs(batch)[1]
    for slot, start, end in q.spans():
        if slot.group in ("atss", "roi"):
            gt_BQ = q.given[slot.group].prior.candidate_gt_BQ
            hit = gt_BQ >= 0
            assert hit.any() and torch.equal(targets.image_G[gt_BQ[hit]], hit.nonzero()[:, 0])
            torch.testing.assert_close(q.ref_BT4[:, start:end], q.given[slot.group].prior.boxes_BQ4)
    for layer, x in stages:
        content = x.content_BTC.detach().requires_grad_()
        logits, boxes, _ = model.decoder.stage(layer, x.replace(content_BTC=content), mem)
        for slot, start, end in x.spans():
            if slot.group in ("atss", "roi"):
                read = logits[:, start:end].sin().sum() + boxes[:, start:end].sum()
                (grad,) = torch.autograd.grad(read, content, retain_graph=True)
                assert grad[:, start:end].abs().max() > 0
                assert grad[:, :start].abs().sum() == grad[:, end:].abs().sum() == 0


def test_the_rule_of_given_queries_is_the_hosts_with_pairs_for_a_divisor():
    strategy = CollaborativeHeads(heads=("roi", "atss"), weight=0.5, head_weight=2.0)
    strategy.check(6)
    rules = {(r.when["group"], r.when["path"]): r for r in strategy.rules(detr_rules())}
    for name in ("atss", "roi"):
        terms = rules[(name,), ("plain",)].terms
        assert {n: t.weight for n, t in terms.items()} == {"class": 0.5, "bbox": 2.5, "giou": 1.0}
        assert all(type(t.normalizer).__name__ == "NumPairs" for t in terms.values())
    of = {path: {n: t.weight for n, t in rules[(g,), (path,)].terms.items()} for g, path in (
        ("atss", "head"), ("roi", "proposals"))}  # fmt: skip
    assert of["head"] == {"class": 12.0, "giou": 24.0, "centerness": 12.0}
    assert rules[("roi",), ("head",)].terms["giou"].weight == 120.0
    assert rules[("roi",), ("head",)].terms["class"].weight == 12.0
    assert of["proposals"]["bbox"] == 12.0


def test_objects_are_regions_too_and_nothing_at_all_trains():
    torch.manual_seed(0)
    head, maps = RoIHead(CLASSES, 32, (8, 16), fc_dim=16), [torch.randn(2, 32, 8, 8), torch.randn(2, 32, 4, 4)]
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.4]])
    targets = Targets((torch.tensor([1]), torch.zeros(0, dtype=torch.int64)), (boxes, torch.zeros(0, 4)),
                      torch.full((2, 2), 64.0))  # fmt: skip
    (_, regions), features = head.train()(maps, torch.full((2, 2), 64.0), targets, "roi")
    prior = regions.given.prior
    own = prior.boxes_BQ4[0][prior.candidate_gt_BQ[0] >= 0]
    assert (own - boxes).abs().amax(-1).min() < 1e-6 and features.shape == (*prior.candidate_gt_BQ.shape, 32)
    assert (prior.candidate_gt_BQ[1] == -1).all() and head.most(0) == 0


def test_a_dense_head_reads_what_lies_in_the_image_alone():
    head = ATSSHead(CLASSES, 32, (8, 16), anchor_size=4.0)
    sizes = torch.tensor([[64.0, 64.0], [32.0, 33.0]])
    targets = Targets(*[(x, x[:0]) for x in (torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.5, 0.5]]))], sizes)
    maps = [torch.randn(2, 32, 8, 8), torch.randn(2, 32, 4, 4)]
    (found,), _ = head(maps, sizes, targets, "atss")
    assert found.given.valid_BQ.sum(1).tolist() == [64 + 16, 4 * 5 + 2 * 3]
    assert (found.given.prior.candidate_gt_BQ[0] == 0).any() and (found.given.prior.candidate_gt_BQ[1] == -1).all()
    # anchors of four strides, around the corners of cells
    torch.testing.assert_close(found.given.prior.boxes_BQ4[0, 9], torch.tensor([8 / 64, 8 / 64, 0.5, 0.5]))


@pytest.mark.parametrize("name, class_loss, class_weight, features", [
    ("co_deformable_r50_12ep", "FocalLoss", 2.0, True), ("co_dino_r50_12ep", "QualityFocalLoss", 1.0, False),
])  # fmt: skip
def test_the_recipes_are_the_published_ones(name, class_loss, class_weight, features):
    cfg = load_config(name)
    strategy, host = instantiate(cfg.model.strategies.co), instantiate(cfg.model.rules)
    strategy.check(6)
    rules = {(r.when["group"][0], r.when["path"][0]): r for r in strategy.rules(host)}
    for rule in (host["main"], host["enc"], *(rules[head, "plain"] for head in ("roi", "atss"))):
        assert type(rule.terms["class"].loss).__name__ == class_loss
        assert [t.weight for t in rule.terms.values()] == [class_weight, 5.0, 2.0]
        assert rule.terms["giou"].loss.eps == 0.0
    assert [c.eps for c in host["main"].matcher.costs if hasattr(c, "eps")] == [1e-12, 0.0]
    assert [t.weight for t in rules["atss", "head"].terms.values()] == [12.0, 24.0, 12.0]
    assert (strategy.num_queries, strategy.features, strategy.weight) == (300, features, 1.0)
    assert cfg.optimizer.lr == 2e-4 and cfg.train.max_iter == 90000 and cfg.train.clip_grad.params.max_norm == 0.1
    assert cfg.model.backbone.freeze_at == 2 and not cfg.dataloader.train.dataset.filter_empty


@pytest.mark.parametrize("options, message", [
    ({"heads": ()}, "heads must be some of atss, roi, each once"), ({"heads": ("atss", "atss")}, "each once"),
    ({"heads": ("mask",)}, "heads must be some of"), ({"num_queries": 0}, "num_queries must be at least 1, got 0"),
])  # fmt: skip
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CollaborativeHeads(**options)


def test_hosts_without_maps_or_places_are_refused_with_the_reason():
    model = HOSTS["dab"]()
    del model.neck.num_levels
    with pytest.raises(ValueError, match="need to know strides and levels of the maps"):
        model.use({"co": CollaborativeHeads()})
    model = HOSTS["dab"]()
    model.queries.__class__ = type("Unplaced", (type(model.queries),), {"places": False})
    with pytest.raises(ValueError, match="Unplaced cannot place a box as a query.*give_queries=false"):
        model.use({"co": CollaborativeHeads()})
    model.use({"co": CollaborativeHeads(give_queries=False)})
    sets = model.train().forward_sets(example_batch(CLASSES, (2, 0)))
    assert {(s.group, s.path) for s in sets} == {("atss", "head"), ("main", "plain")}
    assert sets[0].stage == -1
