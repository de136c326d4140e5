"""Hungarian matching against brute force, and the transfers it makes."""

from itertools import permutations

import pytest
import torch

from detrex_ext.matching import HungarianMatcher, L1Cost, Matcher, base, resolve, stack_sets
from detrex_ext.structures import Given, SupervisedSet, Targets


def make_targets(counts, K=4, seed=1):
    g = torch.Generator().manual_seed(seed)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    return Targets(labels, tuple(torch.rand(n, 4, generator=g) for n in counts), torch.ones(len(counts), 2))


def make_sets(N, B, Q, K=4, seed=0, given=None):
    g = torch.Generator().manual_seed(seed)
    given = given or Given()
    return [
        SupervisedSet(torch.randn(B, Q, K, generator=g), torch.rand(B, Q, 4, generator=g), n, given=given)
        for n in range(N)
    ]


def matched(matcher, sets, targets):
    """{(set, image): {object: query}} with objects counted within their image."""
    pairs = resolve([matcher.match(stack_sets(sets), targets)], "cpu")[0].cls
    offsets = targets.offsets_B.tolist()
    found = {}
    for n, b, q, g in zip(*(x.tolist() for x in (pairs.set_P, pairs.img_P, pairs.query_P, pairs.gt_P)), strict=True):
        found.setdefault((n, b), {})[g - offsets[b]] = q
    return found


def brute_force(cost_GQ):
    """Cheapest total over all one-to-one assignments of min(G, Q) pairs."""
    if cost_GQ.shape[0] > cost_GQ.shape[1]:
        cost_GQ = cost_GQ.T
    rows, columns = cost_GQ.shape
    return min(sum(cost_GQ[i, p] for i, p in enumerate(chosen)) for chosen in permutations(range(columns), rows)).item()


@pytest.mark.parametrize("counts", [(3, 0, 1), (2, 4, 5), (6, 1, 0)])
def test_total_cost_is_the_least_of_all_permutations(counts):
    matcher = HungarianMatcher(cost_class=2, cost_bbox=5, cost_giou=2)
    sets, targets = make_sets(3, 3, 5), make_targets(counts)
    cost = matcher.cost(stack_sets(sets), targets).double()
    found = matched(matcher, sets, targets)
    assert set(found) == {(n, b) for n in range(3) for b in range(3) if counts[b]}
    for (n, b), pairs in found.items():
        start = targets.offsets_B[b]
        block = cost[n, start : start + counts[b]]
        assert len(pairs) == len(set(pairs.values())) == min(counts[b], 5)
        assert sum(block[g, q].item() for g, q in pairs.items()) == pytest.approx(brute_force(block), abs=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_the_cut_to_the_cheapest_candidates_is_exact(seed):
    # random real costs: ties have probability zero
    counts = [(4, 1), (7, 0), (3, 6)][seed % 3]
    sets, targets = make_sets(2, 2, 40, seed=seed), make_targets(counts, seed=seed)
    whole = matched(HungarianMatcher(cut=10**9), sets, targets)
    assert matched(HungarianMatcher(cut=1), sets, targets) == whole


def test_the_cut_is_exact_where_all_objects_want_the_same_queries():
    sets = make_sets(1, 1, 30)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]) + 1e-3 * torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    targets = Targets((torch.zeros(6, dtype=torch.int64),), (boxes,), torch.ones(1, 2))
    assert matched(HungarianMatcher(cut=1), sets, targets) == matched(HungarianMatcher(cut=10**9), sets, targets)


def test_the_cut_sends_a_square_of_the_objects_and_not_the_queries():
    problem = HungarianMatcher(cut=1).match(stack_sets(make_sets(1, 2, 500)), make_targets((3, 2)))
    assert [tuple(t.shape) for t in problem.tensors] == [(1, 5, 3), (1, 5, 3)]


@pytest.mark.parametrize("cut", [1, 10**9])
def test_invalid_queries_are_never_matched(cut):
    valid = torch.tensor([[True] * 3 + [False] * 9, [False] * 11 + [True]])
    sets = make_sets(2, 2, 12, given=Given(valid_BQ=valid))
    found = matched(HungarianMatcher(cut=cut), sets, make_targets((2, 3)))
    for n in range(2):
        assert set(found[n, 0].values()) < {0, 1, 2} and len(found[n, 0]) == 2
        assert list(found[n, 1].values()) == [11]
    free = make_sets(2, 2, 12)
    best = matched(HungarianMatcher(), [_cut_queries(s, 3) for s in free], make_targets((2, 3)))
    assert found[0, 0] == best[0, 0] and found[1, 0] == best[1, 0]


def _cut_queries(s, Q):
    return SupervisedSet(s.logits_BQK[:, :Q], s.boxes_BQ4[:, :Q], s.stage)


@pytest.mark.parametrize(("counts", "Q"), [((0, 0), 5), ((2, 1), 0)])
def test_nothing_to_match(counts, Q):
    pairs = resolve([HungarianMatcher().match(stack_sets(make_sets(2, 2, Q)), make_targets(counts))], "cpu")[0].cls
    assert len(pairs) == 0 and pairs.gt_P.dtype == torch.int64


def test_an_image_is_matched_the_same_alone_and_in_a_batch():
    sets, targets = make_sets(2, 4, 9), make_targets((3, 0, 5, 2))
    together = matched(HungarianMatcher(), sets, targets)
    for b in (0, 2, 3):
        one = [SupervisedSet(s.logits_BQK[b : b + 1], s.boxes_BQ4[b : b + 1], s.stage) for s in sets]
        alone = matched(HungarianMatcher(), one, Targets(targets.labels[b : b + 1], targets.boxes[b : b + 1], None))
        assert all(alone[n, 0] == together[n, b] for n in range(2))


def test_a_cost_that_is_not_a_number_names_the_set_and_image():
    sets = make_sets(3, 2, 4)
    sets[1].boxes_BQ4[1, 2, 0] = torch.nan
    problem = HungarianMatcher().match(stack_sets(sets), make_targets((2, 2)))
    with pytest.raises(FloatingPointError, match=r"group 'main', path 'plain', stage 1, image 1"):
        resolve([problem], "cpu")


def test_one_copy_from_the_device_for_problems_of_all_sizes(monkeypatch):
    copies, real = [], base.device_to_host
    monkeypatch.setattr(base, "_on_host", lambda tensors: False)
    monkeypatch.setattr(base, "device_to_host", lambda buffer: copies.append(buffer.shape) or real(buffer))
    targets = make_targets((2, 3))
    kinds = [(6, 7, None), (1, 400, 1), (2, 7, None), (1, 30, None)]
    stacks = [stack_sets(make_sets(n, 2, q, seed=i)) for i, (n, q, _) in enumerate(kinds)]
    stacks[2].boxes_NBQ4 = stacks[2].match_boxes_NBQ4 = stacks[2].boxes_NBQ4.double()
    answers = [HungarianMatcher(cut=cut).match(s, targets) for s, (_, _, cut) in zip(stacks, kinds, strict=True)]
    through_buffer = resolve(answers, "cpu")
    assert len(copies) == 1
    monkeypatch.undo()
    for ours, alone in zip(through_buffer, (resolve([a], "cpu")[0] for a in answers), strict=True):
        for name in ("set_P", "img_P", "query_P", "gt_P"):
            assert torch.equal(getattr(ours.cls, name), getattr(alone.cls, name))


def test_detrex_protocol():
    sets, targets = make_sets(1, 3, 6), make_targets((2, 0, 8))
    logits = sets[0].logits_BQK.requires_grad_()
    outputs = {"pred_logits": logits, "pred_boxes": sets[0].boxes_BQ4}
    found = HungarianMatcher(cost_class=2, cost_bbox=5, cost_giou=2)(
        outputs, [{"labels": x, "boxes": y} for x, y in zip(targets.labels, targets.boxes, strict=True)]
    )
    ours = matched(HungarianMatcher(cost_class=2, cost_bbox=5, cost_giou=2), sets, targets)
    assert [len(q) for q, _ in found] == [2, 0, 6]
    for b, (query, gt) in enumerate(found):
        assert query.dtype == gt.dtype == torch.int64 and query.device.type == "cpu"
        assert query.tolist() == sorted(query.tolist())
        assert dict(zip(gt.tolist(), query.tolist(), strict=True)) == ours.get((0, b), {})


def test_softmax_costs_by_detrex_name():
    logits = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])
    boxes = torch.full((1, 2, 4), 0.5)
    matcher = HungarianMatcher(cost_class_type="ce_cost")
    target = {"labels": torch.tensor([1]), "boxes": boxes[0, :1]}
    assert matcher({"pred_logits": logits, "pred_boxes": boxes}, [target])[0][0].tolist() == [1]
    with pytest.raises(ValueError, match="ce_cost"):
        HungarianMatcher(cost_class_type="other")


def test_costs_are_needed_and_a_matcher_must_say_how():
    with pytest.raises(ValueError, match="at least one cost"):
        HungarianMatcher(costs=[])
    assert HungarianMatcher(costs=[L1Cost(3.0)]).costs[0].weight == 3.0
    with pytest.raises(NotImplementedError):
        Matcher().match(stack_sets(make_sets(1, 1, 1)), make_targets((1,)))
