"""What losses are divided by, on one rank and on several, and with gradient accumulation."""

import pytest
import torch
import tsp_scenes

from detrex_ext.criterion import (
    FocalLoss,
    GIoULoss,
    L1Loss,
    Rule,
    SetCriterion,
    SoftmaxLoss,
    Term,
    normalizers,
    tsp_fcos_rules,
    tsp_rcnn_rules,
)
from detrex_ext.matching import GivenMatcher, HungarianMatcher
from detrex_ext.structures import Given, Pairs, SupervisedSet, Targets

K = 3


def batch(counts, seed=0, softmax=False, N=2, Q=4):
    g = torch.Generator().manual_seed(seed)
    B = len(counts)
    sets = [
        SupervisedSet(torch.randn(B, Q, K, generator=g), torch.rand(B, Q, 4, generator=g), n, softmax=softmax)
        for n in range(N)
    ]
    labels = tuple(torch.randint(0, K - softmax, (n,), generator=g) for n in counts)
    return sets, Targets(labels, tuple(torch.rand(n, 4, generator=g) for n in counts), torch.ones(B, 2))


def criterion(normalizer, loss=None, **when):
    terms = {"bbox": Term(loss or L1Loss(), 1.0, normalizer), "giou": Term(GIoULoss(), 1.0, normalizer)}
    return SetCriterion([Rule(HungarianMatcher(), terms, when or None)])


def raw(counts, seed=0):
    """Per-set sums of the L1 loss, undivided."""
    sets, targets = batch(counts, seed)
    losses = SetCriterion([Rule(HungarianMatcher(), {"bbox": Term(L1Loss(), 1.0, "mean")})])(sets, targets)
    return torch.stack([losses.stats[f"stage{n}/loss_bbox"] for n in range(2)])


class Ranks:
    """A process group seen from rank 0: the others' contributions are added to every all-reduce."""

    def __init__(self, monkeypatch, others):
        self.calls, self.others = 0, others
        monkeypatch.setattr(normalizers.dist, "is_available", lambda: True)
        monkeypatch.setattr(normalizers.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(normalizers.dist, "get_world_size", lambda: 1 + len(others))
        monkeypatch.setattr(normalizers.dist, "all_reduce", self.all_reduce)

    def all_reduce(self, tensor):
        self.calls += 1
        for other in self.others:
            tensor += torch.tensor(other)


def test_objects_images_and_pairs():
    counts = (1, 6)  # more objects than the 4 queries: 5 pairs of 7 objects
    sets, targets = batch(counts)
    for normalizer, divisor in (("num_objects", 7), ("num_images", 2), ("num_pairs", 5), ("mean", 1)):
        found = criterion(normalizer)(sets, targets)["loss_bbox"]
        torch.testing.assert_close(found, raw(counts).sum() / divisor)


def test_counts_are_means_over_ranks_by_one_all_reduce(monkeypatch):
    sets, targets = batch((1, 2))
    sums = raw((1, 2))
    ranks = Ranks(monkeypatch, [[5.0], [1.0]])
    found = criterion("num_objects")(sets, targets)
    assert ranks.calls == 1
    torch.testing.assert_close(found["loss_bbox"], sums.sum() / ((3 + 5 + 1) / 3))


def test_one_all_reduce_for_normalizers_of_all_kinds(monkeypatch):
    sets, targets = batch((1, 2))
    given = Given(Pairs(*torch.tensor([[0], [0], [2], [0]])), 2.0)
    dn = SupervisedSet(torch.randn(2, 6, K), torch.rand(2, 6, 4), 0, "dn", given=given)
    sums = raw((1, 2))
    # in order of need: objects, pairs of both sets, and the one of "mean"
    ranks = Ranks(monkeypatch, [[3.0, 1.0, 7.0, 1.0]])
    main = {"class": Term(FocalLoss()), "bbox": Term(L1Loss(), 1.0, "num_pairs"), "giou": Term(GIoULoss(), 1.0, "mean")}
    rules = {"main": Rule(HungarianMatcher(), main), "dn": Rule(GivenMatcher(), {"bbox": Term(L1Loss())})}
    found = SetCriterion(rules)([*sets, dn], targets)
    assert ranks.calls == 1
    # objects (3 + 3) / 2, pairs of each set (3 + 1) / 2 and (3 + 7) / 2
    torch.testing.assert_close(found["loss_bbox"], sums[0] / 2 + sums[1] / 5)
    alone = (dn.boxes_BQ4[0, 2] - targets.boxes_G4[0]).abs().sum()
    torch.testing.assert_close(found["loss_bbox_dn"], alone / (3 * 2))


def test_the_mean_is_clamped_after_the_ranks_are_averaged(monkeypatch):
    sets, targets = batch((1, 0))
    sums = raw((1, 0))
    Ranks(monkeypatch, [[0.0], [0.0], [0.0]])
    torch.testing.assert_close(criterion("num_objects")(sets, targets)["loss_bbox"], sums.sum() / 1)


@pytest.mark.parametrize("normalizer", ["num_objects", "num_images"])
def test_micro_batches_sum_to_the_whole_batch(normalizer):
    counts = ((1, 3), (0, 2), (2, 2))
    parts = [batch(c, seed) for seed, c in enumerate(counts)]
    sets = [
        SupervisedSet(
            torch.cat([p[0][n].logits_BQK for p in parts]), torch.cat([p[0][n].boxes_BQ4 for p in parts]), n
        )
        for n in range(2)
    ]
    labels = tuple(x for p in parts for x in p[1].labels)
    whole = Targets(labels, tuple(x for p in parts for x in p[1].boxes), torch.ones(6, 2))
    expected = criterion(normalizer)(sets, whole)
    found = [criterion(normalizer)(*p, effective=(10, 6)) for p in parts]
    for name, value in expected.items():
        torch.testing.assert_close(sum(f[name] for f in found), value)


def test_effective_totals_are_of_all_ranks_and_nothing_is_reduced(monkeypatch):
    sums = raw((1, 2))
    ranks = Ranks(monkeypatch, [[0.0]])
    sets, targets = batch((1, 2))
    found = criterion("num_objects")(sets, targets, effective=(20, 8))
    assert ranks.calls == 0
    torch.testing.assert_close(found["loss_bbox"], sums.sum() / (20 / 2))


def test_other_normalizers_go_by_the_share_of_images():
    sets, targets = batch((1, 6))
    for normalizer, divisor in (("num_pairs", 5 * 3), ("mean", 3)):
        found = criterion(normalizer)(sets, targets, effective=(20, 6))
        torch.testing.assert_close(found["loss_bbox"], raw((1, 6)).sum() / divisor)


def test_the_softmax_mean_is_not_divided_again():
    sets, targets = batch((1, 2), softmax=True)
    terms = {"class": Term(SoftmaxLoss(0.1), 1.0, "mean")}
    found = SetCriterion([Rule(HungarianMatcher(cost_class_type="ce_cost"), terms)])(sets, targets)
    flat = torch.zeros_like(sets[0].logits_BQK)
    equal = [SupervisedSet(flat, s.boxes_BQ4, s.stage, softmax=True) for s in sets]
    uniform = SetCriterion([Rule(HungarianMatcher(), terms)])(equal, targets)
    # a mean of log K whatever the weights, for each of two sets
    torch.testing.assert_close(uniform["loss_class"], 2 * torch.tensor(float(K)).log())
    assert 0 < found["loss_class"].item() < 20


def test_rules_of_sparse_encoders_share_one_all_reduce(monkeypatch):
    """Each count is the mean over ranks, and only then at least 1."""
    main, token, targets, _ = tsp_scenes.fcos((5, 9))
    alone = SetCriterion(tsp_fcos_rules())([token, main], targets)
    counted = {
        name: [float(x) for x in torch.as_tensor(by).flatten()]
        for name, by in zip(("dense", "class", "sum", "candidates"), counts_of(main, token, targets), strict=True)
    }
    dense, (matched, candidates), total = counted["dense"][0], counted["class"], counted["sum"][0]
    assert matched < candidates == counted["candidates"][0] < dense
    other = [50.0, 0.0, 30.0, 4.5, 30.0]
    ranks = Ranks(monkeypatch, [other])
    found = SetCriterion(tsp_fcos_rules())([token, main], targets)
    assert ranks.calls == 1

    def mean(mine, theirs, least=1.0):
        return max((mine + theirs) / 2, least)

    by_class = mean(matched, other[1]) + 0.1 * mean(candidates, other[2])
    for name, was, now in (
        ("class_token", dense, mean(dense, other[0])),
        ("class", matched + 0.1 * candidates, by_class),
        ("giou", total, mean(total, other[3])),
        ("centerness", candidates, mean(candidates, other[4])),
    ):
        torch.testing.assert_close(found[f"loss_{name}"].double(), alone[f"loss_{name}"] * was / now, rtol=1e-6, atol=0)
    s, objects = tsp_scenes.rcnn((5, 9), padding=4)
    monkeypatch.undo()
    alone = SetCriterion(tsp_rcnn_rules())([s], objects)
    Ranks(monkeypatch, [[1.0, 36.0]])
    found = SetCriterion(tsp_rcnn_rules())([s], objects)
    torch.testing.assert_close(found["loss_class"], alone["loss_class"])
    torch.testing.assert_close(found["loss_giou"], alone["loss_giou"] * 76 / (76 + 36) * 2)


def counts_of(main, token, targets):
    """What one rank counts of the two sets, in the order of the terms."""
    rules = tsp_fcos_rules()
    jobs = SetCriterion(rules)._supervise([token, main], targets)
    return [term.normalizer.count(s) for rule, s in jobs for term in rule.terms.values()]


@pytest.mark.parametrize("host", ["fcos", "rcnn"])
def test_equal_micro_batches_of_sparse_encoders_are_one_batch(host):
    rules = tsp_fcos_rules() if host == "fcos" else tsp_rcnn_rules()
    *sets, targets = tsp_scenes.fcos((5, 0, 9))[:3] if host == "fcos" else tsp_scenes.rcnn((5, 0, 9))
    whole, half = (SetCriterion(rules)(sets, targets, e) for e in (None, (28, 6)))
    for name, value in whole.items():
        torch.testing.assert_close(half[name], value / 2)
