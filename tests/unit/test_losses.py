"""Losses against autograd of the plain formulas, in fp64."""

import pytest
import torch
from torch.nn import functional as F

from detrex_ext.criterion import AlignedLoss, FocalLoss, GIoULoss, L1Loss, SoftmaxLoss, Supervision
from detrex_ext.criterion import sigmoid as dense
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, generalized_box_iou_elementwise
from detrex_ext.layers.cpu import focal, switched
from detrex_ext.matching import stack_sets
from detrex_ext.structures import Assignment, Given, Pairs, SupervisedSet, Targets

N, B, Q, K = 2, 2, 5, 3
TARGETS = Targets(
    (torch.tensor([2]), torch.tensor([0, 1])),
    (torch.rand(1, 4, dtype=torch.float64) * 0.4 + 0.2, torch.rand(2, 4, dtype=torch.float64) * 0.4 + 0.2),
    torch.ones(B, 2),
)


def make_pairs(weighted=False):
    index = [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [3, 0, 4, 2, 1], [0, 1, 2, 2, 1]]
    weight = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0], dtype=torch.float64) if weighted else None
    return Pairs(*(torch.tensor(x) for x in index), weight)


def supervise(assignment=None, given=None, softmax=False, requires_grad=True, K=K, scale=2.0):
    torch.manual_seed(0)
    sets = []
    for stage in range(N):
        logits = (torch.randn(B, Q, K, dtype=torch.float64) * scale).requires_grad_(requires_grad)
        boxes = (torch.rand(B, Q, 4, dtype=torch.float64) * 0.4 + 0.2).requires_grad_(requires_grad)
        sets.append(SupervisedSet(logits, boxes, stage, given=given or Given(), softmax=softmax))
    found = assignment or Assignment(cls=make_pairs(), box=make_pairs())
    return sets, Supervision(stack_sets(sets), found, TARGETS)


def plain_focal(sets, assignment, alpha, gamma, weight_NBQ=None):
    """Every entry by the formula of Lin et al., equation 5."""
    sums = []
    for n, s in enumerate(sets):
        truth = torch.zeros(B, Q, K, dtype=torch.float64)
        entry_weight = torch.ones(B, Q, K, dtype=torch.float64)
        for pairs, value in ((assignment.damp, 0.0), (assignment.cls, 1.0)):
            for p in range(len(pairs) if pairs else 0):
                if pairs.set_P[p] == n:
                    at = (pairs.img_P[p], pairs.query_P[p], TARGETS.labels_G[pairs.gt_P[p]])
                    truth[at] = value
                    entry_weight[at] = 1.0 if pairs.weight_P is None else pairs.weight_P[p]
        p = s.logits_BQK.sigmoid()
        p_t = torch.where(truth == 1, p, 1 - p)
        alpha_t = alpha * truth + (1 - alpha) * (1 - truth)
        loss = -alpha_t * (1 - p_t) ** gamma * p_t.log() * entry_weight
        if weight_NBQ is not None:
            loss = loss * weight_NBQ[n][..., None]
        sums.append(loss.sum())
    return torch.stack(sums)


def same_values_and_gradients(found, expected, tensors):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    mix = torch.tensor([1.0, -0.7], dtype=torch.float64)
    ours = torch.autograd.grad((found * mix).sum(), tensors, retain_graph=True)
    theirs = torch.autograd.grad((expected * mix).sum(), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.5), (0.25, 0.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_equals_autograd_of_the_formula(alpha, gamma, weighted):
    assignment = Assignment(cls=make_pairs(weighted), box=make_pairs())
    sets, s = supervise(assignment)
    expected = plain_focal(sets, assignment, alpha, gamma)
    same_values_and_gradients(FocalLoss(alpha, gamma)(s), expected, [x.logits_BQK for x in sets])


def test_focal_with_damped_pairs_and_ignored_queries():
    damp = Pairs(*(torch.tensor(x) for x in ([0, 1], [1, 0], [2, 4], [1, 0])), torch.tensor([0.1, 0.3]).double())
    weight = torch.ones(N, B, Q, dtype=torch.float64)
    weight[0, 1, 2], weight[1, 1, 2], weight[1, 0] = 0.5, 0.0, 0.25
    assignment = Assignment(make_pairs(True), make_pairs(), weight, damp)
    sets, s = supervise(assignment)
    expected = plain_focal(sets, assignment, 0.25, 2.0, weight)
    same_values_and_gradients(FocalLoss()(s), expected, [x.logits_BQK for x in sets])


def test_queries_that_are_not_valid_have_no_class_loss():
    valid = torch.tensor([[True, True, False, True, True], [True, True, True, False, True]])
    sets, s = supervise(given=Given(valid_BQ=valid))
    expected = plain_focal(sets, s.assignment, 0.25, 2.0, valid.double().expand(N, B, Q))
    same_values_and_gradients(FocalLoss()(s), expected, [x.logits_BQK for x in sets])
    weight = torch.full((N, B, Q), 0.5, dtype=torch.float64)
    both = Assignment(s.assignment.cls, s.assignment.box, weight)
    sets, s = supervise(both, Given(valid_BQ=valid))
    torch.testing.assert_close(FocalLoss()(s), plain_focal(sets, both, 0.25, 2.0, valid * weight))


def test_focal_passes_gradcheck_in_chunks(monkeypatch):
    monkeypatch.setattr(focal, "CACHED", 4 * K)
    x = torch.randn(N, B, Q, K, dtype=torch.float64, requires_grad=True)
    entries = torch.tensor([1, 7, 20, 44])
    weight = torch.rand(N, B, Q, dtype=torch.float64)
    corrections = [(entries, lambda x: x.sin()), (entries[:1], lambda x: x**2)]
    assert torch.autograd.gradcheck(lambda x: dense.dense_sigmoid_loss(x, 0.75, 2.0, weight, corrections), x)
    plain = dense.negative(x, 0.75, 2.0) * weight[..., None]
    expected = plain.flatten(1).sum(1)
    flat = x.reshape(-1)
    expected = expected + torch.stack([flat[[1, 7, 20]].sin().sum() + flat[1] ** 2, flat[44].sin()])
    torch.testing.assert_close(dense.dense_sigmoid_loss(x, 0.75, 2.0, weight, corrections), expected)


def test_focal_stays_finite_and_right_at_extreme_logits():
    x = torch.tensor([-200.0, -60.0, -20.0, 20.0, 60.0, 200.0]).view(1, 1, 6, 1).requires_grad_()
    value = dense.dense_sigmoid_loss(x, 1.0, 2.0)
    value.backward()
    assert value.item() == pytest.approx(20.0 + 60.0 + 200.0, rel=1e-6)
    torch.testing.assert_close(x.grad.view(-1), torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))


def test_only_one_tensor_of_the_logits_size_is_kept_for_the_backward_pass():
    _, s = supervise()
    logits, saved = s.stack.logits_NBQK, []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t)
    with switched(True), keep:
        loss = FocalLoss()(s)
    assert loss.requires_grad and [n for n in saved if n >= logits.numel()] == [logits.numel()]


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_is_the_weighted_mean_of_every_set(weighted):
    assignment = Assignment(cls=make_pairs(weighted), box=make_pairs())
    sets, s = supervise(assignment, softmax=True, K=K + 1)
    expected = []
    pairs = assignment.cls
    for n, one in enumerate(sets):
        target = torch.full((B, Q), K)
        weight = torch.full((B, Q), 0.2, dtype=torch.float64)
        for p in range(len(pairs)):
            if pairs.set_P[p] == n:
                target[pairs.img_P[p], pairs.query_P[p]] = TARGETS.labels_G[pairs.gt_P[p]]
                weight[pairs.img_P[p], pairs.query_P[p]] = pairs.weight_P[p] if weighted else 1.0
        value = F.cross_entropy(one.logits_BQK.flatten(0, 1), target.flatten(), reduction="none")
        expected.append((value * weight.flatten()).sum() / weight.sum())
        if not weighted:
            class_weight = torch.tensor([1.0] * K + [0.2], dtype=torch.float64)
            torch.testing.assert_close(
                expected[-1], F.cross_entropy(one.logits_BQK.flatten(0, 1), target.flatten(), class_weight)
            )
    same_values_and_gradients(SoftmaxLoss(0.2)(s), torch.stack(expected), [x.logits_BQK for x in sets])


def test_softmax_ignores_queries_of_weight_zero():
    valid = torch.ones(B, Q, dtype=torch.bool)
    valid[0, 1] = False
    sets, s = supervise(softmax=True, K=K + 1, given=Given(valid_BQ=valid))
    (grad,) = torch.autograd.grad(SoftmaxLoss()(s).sum(), sets[0].logits_BQK)
    assert (grad[0, 1] == 0).all() and (grad[0, 0] != 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_box_losses_of_pairs(weighted):
    pairs = make_pairs(weighted)
    # class pairs differ from box pairs: only the latter may count
    sets, s = supervise(Assignment(cls=Pairs.empty(), box=pairs))
    l1, corners, giou = ([torch.zeros((), dtype=torch.float64)] * N for _ in range(3))
    for p in range(len(pairs)):
        n = int(pairs.set_P[p])
        box = sets[n].boxes_BQ4[pairs.img_P[p], pairs.query_P[p]]
        gt = TARGETS.boxes_G4[pairs.gt_P[p]]
        w = pairs.weight_P[p] if weighted else 1.0
        l1[n] = l1[n] + w * (box - gt).abs().sum()
        corners[n] = corners[n] + w * (box_cxcywh_to_xyxy(box) - box_cxcywh_to_xyxy(gt)).abs().sum()
        overlap = generalized_box_iou_elementwise(box_cxcywh_to_xyxy(box), box_cxcywh_to_xyxy(gt))
        giou[n] = giou[n] + w * (1 - overlap)
    boxes = [x.boxes_BQ4 for x in sets]
    same_values_and_gradients(L1Loss()(s), torch.stack(l1), boxes)
    same_values_and_gradients(L1Loss(xyxy=True)(s), torch.stack(corners), boxes)
    same_values_and_gradients(GIoULoss()(s), torch.stack(giou), boxes)


@pytest.mark.parametrize("loss, softmax", [(FocalLoss(), True), (AlignedLoss(), True), (SoftmaxLoss(), False)])
def test_a_loss_of_the_other_kind_of_classification_is_refused(loss, softmax):
    _, s = supervise(softmax=softmax, K=K + softmax)
    with pytest.raises(ValueError, match=f"{type(loss).__name__} is for .* group 'main', path 'plain', stage 0"):
        loss(s)


@pytest.mark.parametrize("loss", [FocalLoss(), SoftmaxLoss(), L1Loss(), GIoULoss()])
def test_no_pairs_or_no_queries_give_finite_losses_with_a_graph(loss):
    nothing = Assignment(cls=Pairs.empty(), box=Pairs.empty())
    for queries in (Q, 0):
        logits = torch.randn(B, queries, K, requires_grad=True)
        boxes = torch.rand(B, queries, 4, requires_grad=True)
        one = SupervisedSet(logits, boxes, 0, softmax=isinstance(loss, SoftmaxLoss))
        value = loss(Supervision(stack_sets([one, one]), nothing, TARGETS))
        assert value.shape == (2,) and torch.isfinite(value).all() and value.requires_grad
        value.sum().backward()
        of_class = isinstance(loss, (FocalLoss, SoftmaxLoss))
        assert torch.isfinite(logits.grad if of_class else boxes.grad).all()
        if not of_class or not queries:
            assert (value == 0).all()
