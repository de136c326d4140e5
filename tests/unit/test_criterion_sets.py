"""The whole criterion against a loop over sets, one at a time."""

from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detrex_ext.criterion import SetCriterion, detr_rule, detr_rules
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, generalized_box_iou_elementwise
from detrex_ext.matching import GivenMatcher
from detrex_ext.structures import Given, Pairs, SupervisedSet, Targets

K = 4
RULES = detr_rules(("main", "enc", "dn"), enc_objectness=True, class_weight=2.0)


def make_targets(counts, seed=1):
    g = torch.Generator().manual_seed(seed)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    boxes = tuple(torch.rand(n, 4, generator=g, dtype=torch.float64) * 0.4 + 0.2 for n in counts)
    return Targets(labels, boxes, torch.ones(len(counts), 2))


def make_set(B, Q, stage, seed, **tags):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, Q, K, generator=g, dtype=torch.float64).requires_grad_()
    boxes = (torch.rand(B, Q, 4, generator=g, dtype=torch.float64) * 0.4 + 0.2).requires_grad_()
    return SupervisedSet(logits, boxes, stage, **tags)


def match(s, b, targets, labels):
    with torch.no_grad():
        p = s.logits_BQK[b].sigmoid()[:, labels]
        gain = -0.25 * (1 - p) ** 2 * (p + 1e-8).log() + 0.75 * p**2 * (1 - p + 1e-8).log()
        boxes = s.boxes_BQ4[b]
        giou = generalized_box_iou_elementwise(box_cxcywh_to_xyxy(boxes)[:, None], box_cxcywh_to_xyxy(targets.boxes[b]))
        cost = 2 * gain + 5 * torch.cdist(boxes, targets.boxes[b], p=1) - 2 * giou
    return [torch.as_tensor(x) for x in linear_sum_assignment(cost.numpy())]


def plain(s, targets, num_boxes, pairs=None, objectness=False):
    """(class, bbox, giou) of one set, weighted 2, 5, 2, by detrex's recipe."""
    total = [0.0, 0.0, 0.0]
    for b in range(len(targets.labels)):
        labels = torch.zeros_like(targets.labels[b]) if objectness else targets.labels[b]
        query, gt = pairs[b] if pairs else match(s, b, targets, labels)
        truth = torch.zeros_like(s.logits_BQK[b])
        truth[query, labels[gt]] = 1
        p = s.logits_BQK[b].sigmoid()
        focal = -truth * 0.25 * (1 - p) ** 2 * p.log() - (1 - truth) * 0.75 * p**2 * (1 - p).log()
        box, goal = s.boxes_BQ4[b][query], targets.boxes[b][gt]
        giou = generalized_box_iou_elementwise(box_cxcywh_to_xyxy(box), box_cxcywh_to_xyxy(goal))
        for i, x in enumerate((2 * focal.sum(), 5 * (box - goal).abs().sum(), 2 * (1 - giou).sum())):
            total[i] = total[i] + x / num_boxes
    return torch.stack(total)


def dn_pairs(targets, groups, most):
    """Group r, object k of an image at row 2 r most + k, as DINO's; flat and per image."""
    flat, per_image, start = [], [], 0
    for b, n in enumerate(targets.counts):
        rows = [(2 * r * most + k, k) for r in range(groups) for k in range(n)]
        flat += [(0, b, q, start + k) for q, k in rows]
        per_image.append(tuple(torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T))
        start += n
    return Pairs(*torch.tensor(flat).T), per_image


def step_of_a_host(B=2, seed=0):
    sets = [make_set(B, 30, -1, seed + 100, group="enc")]
    for stage in range(3):
        sets.append(make_set(B, 7, stage, seed + stage))
        sets += [make_set(B, 7, stage, seed + 10 * stage + k, path="recollect") for k in range(1, stage + 1)]
    return sets


@pytest.mark.parametrize("counts", [(3, 5), (2, 0), (0, 0), (4,), (1, 2, 9)])
def test_losses_and_gradients_equal_a_loop_over_sets(counts):
    targets, groups = make_targets(counts), 2
    sets = step_of_a_host(len(counts))
    most = max(counts)
    per_image = None
    if most:
        pairs, per_image = dn_pairs(targets, groups, most)
        given = Given(pairs, float(groups))
        sets += [make_set(len(counts), 2 * groups * most, i, 50 + i, group="dn", given=given) for i in range(3)]
    expected, num_boxes = {}, max(1, sum(counts))
    for s in sets:
        is_dn = s.group == "dn"
        values = plain(s, targets, num_boxes * (groups if is_dn else 1), per_image if is_dn else None, s.group == "enc")
        suffix = {"main": "", "dn": "_dn", "enc": "_enc"}[s.group] + ("_recollect" if s.path == "recollect" else "")
        for term, value in zip(("class", "bbox", "giou"), values, strict=True):
            name = f"loss_{term}{suffix}"
            expected[name] = expected.get(name, 0.0) + value
            stage = f"stage{s.stage}/{name}"
            expected[stage] = expected.get(stage, 0.0) + value.detach()
    losses = SetCriterion(RULES)(sets, targets)
    assert set(losses) | set(losses.stats) == set(expected)
    for name, value in {**losses, **losses.stats}.items():
        assert value.shape == ()
        torch.testing.assert_close(value, torch.as_tensor(expected[name]), rtol=1e-10, atol=1e-12)
    assert all(v.requires_grad for v in losses.values()) and not any(v.requires_grad for v in losses.stats.values())
    leaves = [x for s in sets for x in (s.logits_BQK, s.boxes_BQ4)]
    theirs = torch.autograd.grad(sum(v for k, v in expected.items() if k in losses), leaves, allow_unused=True)
    ours = torch.autograd.grad(sum(losses.values()), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-12)


def test_an_image_counts_the_same_alone_and_in_a_batch():
    sets, targets = step_of_a_host(2), make_targets((3, 4))
    whole = SetCriterion(RULES)(sets, targets, effective=(7, 2))
    parts = []
    for b in range(2):
        own = [SupervisedSet(s.logits_BQK[b : b + 1], s.boxes_BQ4[b : b + 1], s.stage, s.group, s.path) for s in sets]
        one = Targets(targets.labels[b : b + 1], targets.boxes[b : b + 1], torch.ones(1, 2))
        parts.append(SetCriterion(RULES)(own, one, effective=(7, 2)))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[0][name] + parts[1][name])


def test_every_loss_of_an_empty_slot_is_a_zero_with_a_graph():
    sets = [make_set(2, 0, i, i, group="dn", given=Given(Pairs.empty(), 1.0)) for i in range(2)]
    losses = SetCriterion(RULES)(sets, make_targets((0, 0)))
    assert set(losses) == {"loss_class_dn", "loss_bbox_dn", "loss_giou_dn"}
    assert all(v.item() == 0 for v in losses.values())
    sum(losses.values()).backward()
    assert sets[0].logits_BQK.grad.shape == (2, 0, K)


def test_no_objects_leave_boxes_with_a_zero_gradient():
    s = make_set(2, 5, 0, 0)
    losses = SetCriterion(RULES)([s], make_targets((0, 0)))
    sum(losses.values()).backward()
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0 and losses["loss_class"].item() > 0
    assert (s.boxes_BQ4.grad == 0).all() and (s.logits_BQK.grad != 0).all()


def test_denoising_sets_of_different_sources_keep_their_own_pairs():
    targets = make_targets((1, 2))
    sets, expected = [], 0.0
    for seed, groups in enumerate((1, 3)):
        pairs, per_image = dn_pairs(targets, groups, 2)
        sets.append(make_set(2, 12, seed, seed, group="dn", given=Given(pairs, float(groups))))
        expected = expected + plain(sets[-1], targets, 3 * groups, per_image)
    losses = SetCriterion({"dn": detr_rule(GivenMatcher(), class_weight=2.0)})(sets, targets)
    torch.testing.assert_close(torch.stack(list(losses.values())), expected)


def test_a_loss_that_is_not_finite_names_its_set_and_term():
    sets, targets = step_of_a_host(), make_targets((1, 2))
    pairs, _ = dn_pairs(targets, 1, 2)
    bad = make_set(2, 4, 2, 9, group="dn", given=Given(pairs))
    with torch.no_grad():
        bad.boxes_BQ4[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="loss_bbox of group 'dn', path 'plain', stage 2 is nan"):
        SetCriterion(RULES)([*sets, bad], targets)
    losses = SetCriterion(RULES, check_finite=False)([*sets, bad], targets)
    assert torch.isnan(losses["loss_bbox_dn"]) and torch.isfinite(losses["loss_bbox"])


def test_a_label_that_is_no_class_is_an_error():
    targets = make_targets((1, 2))
    targets.labels[1][0] = K
    with pytest.raises(ValueError, match=r"class 4, but group 'main'.*predicts 4 classes"):
        SetCriterion(detr_rules())([make_set(2, 5, 0, 0)], targets)


def test_each_loss_is_computed_once_for_all_sets_of_a_shape(monkeypatch):
    calls = []
    rules = detr_rules()

    def counted(name, loss):
        return lambda s: calls.append((name, s.stack.shape)) or loss(s)

    for name, term in rules["main"].terms.items():
        monkeypatch.setattr(term, "loss", counted(name, term.loss))
    sets = [make_set(2, 6, i, i) for i in range(5)] + [make_set(2, 4, 9, 9)]
    SetCriterion(rules)(sets, make_targets((2, 1)))
    assert sorted(calls) == sorted((t, (n, 2, q, K)) for t in ("class", "bbox", "giou") for n, q in ((5, 6), (1, 4)))


def test_autocast_does_not_reach_the_losses():
    s, targets = make_set(2, 5, 0, 0), make_targets((2, 1))
    s = SupervisedSet(s.logits_BQK.detach().bfloat16(), s.boxes_BQ4.detach().float(), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = SetCriterion(RULES)([s], targets)
    exact = SetCriterion(RULES)([SupervisedSet(s.logits_BQK.float(), s.boxes_BQ4, 0)], targets)
    assert all(v.dtype == torch.float32 and torch.equal(v, exact[k]) for k, v in losses.items())


def test_no_sets_no_losses():
    assert SetCriterion(RULES)([], make_targets((1,))) == {}


def test_stage_weights_scale_the_losses_of_each_stage():
    """Total = encoder + sum of each stage's own total times its weight; the last weight holds on."""
    targets, sets = make_targets((3, 2)), step_of_a_host()
    even = SetCriterion(RULES)(sets, targets).stats
    weighted = {**RULES, "main": replace(RULES["main"], stage_weights=[0.0, 0.5])}
    losses = SetCriterion(weighted)(sets, targets)
    factor = {-1: 1.0, 0: 0.0, 1: 0.5, 2: 0.5}
    expected = sum(v * factor[int(name.split("/")[0].removeprefix("stage"))] for name, v in even.items())
    torch.testing.assert_close(sum(losses.values()), expected, rtol=1e-12, atol=0)
    sum(losses.values()).backward()
    silent = {s.stage for s in sets if not s.logits_BQK.grad.any() and not s.boxes_BQ4.grad.any()}
    assert silent == {0}
    with pytest.raises(ValueError, match="at least 0"):
        replace(RULES["main"], stage_weights=[-1.0])
