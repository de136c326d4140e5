"""One-to-many matching against loops over objects and queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, SetCriterion, SoftmaxLoss, Supervision, detr_rule
from detrex_ext.matching import (
    GivenMatcher,
    HungarianMatcher,
    L1Cost,
    OneToManyMatcher,
    RepeatedMatcher,
    TopKMatcher,
    resolve,
    stack_sets,
)
from detrex_ext.structures import Assignment, Given, Pairs, Prior, SupervisedSet, Targets

K = 3


def problem(counts, Q, seed=0, N=2, spread=0.15, coarse=False, softmax=False, given=None, dtype=torch.float32):
    """Queries near the objects, so that they overlap; ``coarse``: few different values, so that scores tie."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        x = torch.rand(shape, generator=g, dtype=dtype)
        return (x * 3).round() / 3 if coarse else x

    boxes = tuple(torch.cat([0.3 + 0.4 * rand(n, 2), 0.2 + 0.3 * rand(n, 2)], 1) for n in counts)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    sets = []
    for stage in range(N):
        pred = torch.cat([0.3 + 0.4 * rand(len(counts), Q, 2), 0.2 + 0.3 * rand(len(counts), Q, 2)], -1)
        for b, n in enumerate(counts):
            near = torch.arange(0, Q, 2)
            if n:
                pred[b, near] = boxes[b][near % n] + spread * (rand(len(near), 4) - 0.5)
        logits = 4 * rand(len(counts), Q, K + softmax) - 2
        sets.append(SupervisedSet(logits, pred.clamp(0.05, 0.95), stage, given=given or Given(), softmax=softmax))
    return stack_sets(sets), Targets(labels, boxes, torch.ones(len(counts), 2))


def sides(box):
    return box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2


def iou(a, b):
    a, b = sides(a), sides(b)
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def of_one_image(score, m):
    """The rule for a table ``score[g][q]``: {object: its queries, best first}."""
    G, Q = len(score), len(score[0])
    ranked = [sorted(range(Q), key=lambda q: (-score[g][q], q)) for g in range(G)]
    if isinstance(m, TopKMatcher):
        return {g: ranked[g][: m.k] for g in range(G)}
    owner = [max(range(G), key=lambda g: (score[g][q], -g)) for q in range(Q)]
    candidate = [score[owner[q]][q] >= m.threshold for q in range(Q)]
    for g in range(G):
        candidate[ranked[g][0]] = True
    counts = [sum(candidate[q] and owner[q] == g for q in range(Q)) for g in range(G)]
    return {g: ranked[g][: min(counts[g], m.k)] for g in range(G)}


def score_of(m, p, u, box, seen):
    """A pair's score; scores are compared in single precision."""
    if isinstance(m, OneToManyMatcher):
        value = m.w_iou * (iou(seen, box) if m.boxes == "prior" else u) + m.w_cls * p
    else:
        value = u if m.priced is None else -5.0 * sum(abs(x - y) for x, y in zip(seen, box, strict=True))
    return float(np.float32(value))


def brute_force(m, stack, targets):
    """{(set, image, query, object): weight} for class and for box pairs, by loops."""
    prob = (stack.logits_NBQK.softmax(-1) if stack.softmax else stack.logits_NBQK.sigmoid()).tolist()
    own = stack.boxes_NBQ4.tolist()
    prior = stack.given.prior and stack.given.prior.boxes_BQ4.tolist()
    labels, truth = targets.labels_G.tolist(), targets.boxes_G4.tolist()
    cls, box, start = {}, {}, 0
    for b, count in enumerate(targets.counts):
        at = range(start, start + count)
        start += count
        for n in range(stack.shape[0] if count else 0):
            seen = prior[b] if prior else own[n][b]
            p = [[row[labels[g]] for row in prob[n][b]] for g in at]
            u = [[iou(x, truth[g]) for x in own[n][b]] for g in at]
            score = [
                [score_of(m, p[i][q], u[i][q], truth[g], seen[q]) for q in range(stack.shape[2])]
                for i, g in enumerate(at)
            ]
            positive, regressed = pairs_of(m, score, p, u, [labels[g] for g in at], stack.softmax)
            cls.update({(n, b, q, at[g]): w for (g, q), w in positive.items()})
            box.update({(n, b, q, at[g]): w for (g, q), w in regressed.items()})
    return cls, box


def pairs_of(m, score, p, u, labels, softmax):
    """{(object, query): weight} of one image, for class and for box pairs."""
    pairs = [(g, q) for g, queries in of_one_image(score, m).items() for q in queries]

    def wins(pair, rivals):
        return max(rivals, key=lambda gq: (score[gq[0]][gq[1]], -gq[0])) == pair

    if m.conflict == "best":
        pairs = [x for x in pairs if wins(x, [y for y in pairs if y[1] == x[1]])]
    quality = {(g, q): max(p[g][q] ** m.alpha * u[g][q] ** (1 - m.alpha), 0.01) for g, q in pairs}
    rank = {}
    for x in sorted(pairs, key=quality.get, reverse=True):  # equal ones stay in order
        rank[x] = sum(y[0] == x[0] for y in rank)
    box = {x: math.exp(-rank[x] / m.tau) if m.tau else 1.0 for x in pairs}

    def same_answer(x, y):
        return x[1] == y[1] and (softmax or labels[x[0]] == labels[y[0]])

    return {x: box[x] for x in pairs if wins(x, [y for y in pairs if same_answer(x, y)])}, box


def as_dict(pairs):
    index = zip(*(x.tolist() for x in (pairs.set_P, pairs.img_P, pairs.query_P, pairs.gt_P)), strict=True)
    weight = torch.ones(len(pairs)) if pairs.weight_P is None else pairs.weight_P
    valid = torch.ones(len(pairs)) if pairs.valid_P is None else pairs.valid_P
    found = [(at, w) for at, w, v in zip(index, weight.tolist(), valid.tolist(), strict=True) if v]
    assert len(found) == len(dict(found))
    return dict(found)


def check(matcher, stack, targets):
    """Equal to the loops; double precision keeps scores of both on the same side of each other."""
    found = matcher.match(stack, targets)
    for ours, loops in zip((found.cls, found.box), brute_force(matcher, stack, targets), strict=True):
        ours = as_dict(ours)
        assert ours.keys() == loops.keys()
        assert all(math.isclose(w, loops[at], rel_tol=1e-6) for at, w in ours.items())
    return found


def cases(number, seed=0, **options):
    """Problems of 50 pictures and two sets each, 100 cases: crowds, pictures without objects, few queries, ties."""
    g = torch.Generator().manual_seed(seed)
    for i in range(number // 100):
        counts = torch.randint(0, (4, 8)[i % 2], (50,), generator=g).tolist()
        Q = (1, 3, 8, 15, 20)[i % 5]
        more = {k: v(Q) if callable(v) else v for k, v in options.items()}
        yield i, *problem(counts, Q, i, coarse=i % 4 == 3, dtype=torch.float64, **more)


def test_5000_cases_equal_loops_over_objects_and_queries():
    shared = unmatched = 0
    for i, stack, targets in cases(5000):
        matcher = OneToManyMatcher(
            k=1 + i % 7,
            threshold=0.2 + 0.05 * (i % 8),
            cap=None,
            conflict=("multi", "best")[i // 2 % 2],
            tau=(None, 1.5)[i // 4 % 2] if i % 4 != 3 else None,  # qualities that tie differ in their last bit
        )
        box = as_dict(check(matcher, stack, targets).box)
        shared += len(box) - len({at[:3] for at in box})
        unmatched += 2 * targets.num - len({(at[0], at[3]) for at in box})
    assert shared > 100 and unmatched > 100  # the cases held crowds


def first_boxes(Q, seed=0):
    g = torch.Generator().manual_seed(seed)
    low, wide = torch.tensor([0.3, 0.3, 0.2, 0.2]), torch.tensor([0.4, 0.4, 0.3, 0.3])
    return Given(prior=Prior((low + wide * torch.rand(50, Q, 4, generator=g)).double()))


def test_detas_rule_equals_loops():
    """IoU alone, of the boxes that queries begin with."""
    for i, stack, targets in cases(500, given=first_boxes):
        rule = {"k": 4, "threshold": (0.6, 0.7)[i % 2], "w_iou": 1.0, "w_cls": 0.0, "cap": None, "boxes": "prior"}
        check(OneToManyMatcher(**rule), stack, targets)
    for given in (None, first_boxes(4)):
        with pytest.raises(ValueError, match="group 'main', path 'plain', stage 0 does not say .* 5 queries"):
            OneToManyMatcher(boxes="prior").match(*problem((2,), 5, given=given))


@pytest.mark.parametrize("costs", [None, [L1Cost(5.0)]])
def test_the_best_k_equal_loops(costs):
    for i, stack, targets in cases(500):
        check(TopKMatcher(1 + i % 7, costs, ("multi", "best")[i % 2]), stack, targets)


def test_the_cap_may_be_a_share():
    stack, targets = problem((1,), 40, spread=0.01)
    found = OneToManyMatcher(k=40, threshold=0.1, cap=0.25).match(stack, targets)
    assert found.box.valid_P.view(2, 40).sum(1).tolist() == [10, 10]


def test_equal_scores_go_to_the_lower_index():
    box = torch.tensor([0.5, 0.5, 0.2, 0.2])
    stack = stack_sets([SupervisedSet(torch.zeros(1, 8, K), box.expand(1, 8, 4), 0)])
    targets = Targets((torch.tensor([1, 1]),), (box.expand(2, 4),), torch.ones(1, 2))
    found = OneToManyMatcher(k=3).match(stack, targets)
    assert sorted(as_dict(found.box)) == [(0, 0, q, 0) for q in range(3)]  # the second object owns no query
    for seed in range(10):
        check(OneToManyMatcher(k=2, threshold=0.5), *problem((3, 6), 10, seed, coarse=True, dtype=torch.float64))


def test_softmax_scores_and_one_class_per_query():
    for seed in range(5):
        matcher = OneToManyMatcher(threshold=0.3)
        check(matcher, *problem((6, 2), 8, seed, softmax=True, dtype=torch.float64))


def test_no_objects_and_fewer_queries_than_k():
    stack, targets = problem((0, 0), 5)
    assert len(OneToManyMatcher().match(stack, targets).cls) == 0
    check(OneToManyMatcher(k=6, threshold=0.1), *problem((1, 0), 2, dtype=torch.float64))
    stack, targets = problem((2, 1), 0)
    assert len(OneToManyMatcher().match(stack, targets).cls) == 0


def test_invalid_queries_are_never_taken():
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, ::2] = False
    valid[1] = False
    stack, targets = problem((3, 2), 12, given=Given(valid_BQ=valid))
    box = as_dict(OneToManyMatcher(threshold=0.1).match(stack, targets).box)
    assert box and all(b == 0 and q % 2 for _, b, q, _ in box)


def test_the_score_looks_at_match_boxes_and_the_rank_at_the_sets_own():
    stack, targets = problem((3,), 12, seed=1, N=1, dtype=torch.float64)
    one = stack.sets[0]
    far = SupervisedSet(one.logits_BQK, 1 - one.boxes_BQ4, 0, match_boxes_BQ4=one.boxes_BQ4)
    plain, seen = (OneToManyMatcher(tau=1.5).match(stack_sets([s]), targets).box for s in (one, far))
    assert as_dict(plain).keys() == as_dict(seen).keys() and as_dict(plain) != as_dict(seen)


def test_the_cap_draws_candidates_and_leaves_the_order():
    stack, targets = problem((2, 1), 60, seed=3, spread=0.02)
    free = as_dict(OneToManyMatcher(k=20, threshold=0.1, cap=None).match(stack, targets).box)
    torch.manual_seed(0)
    sizes = []
    for _ in range(20):
        drawn = as_dict(OneToManyMatcher(k=20, threshold=0.1, cap=7).match(stack, targets).box)
        assert drawn.keys() <= free.keys()
        first = [at for at in drawn if at[:2] == (0, 0)]
        sizes.append(tuple(sum(at[3] == g for at in first) for g in range(2)))
        assert sum(sizes[-1]) == 7  # all candidates that were left, each of one object
    assert len(set(sizes)) > 1


def test_the_cap_draws_every_choice_alike():
    """How many candidates of an object are drawn is hypergeometric; many copies of one picture show it."""
    cap, copies = 6, 4000
    stack, targets = problem((2,), 16, seed=3, N=1, spread=0.1)
    one = stack.sets[0]
    many = SupervisedSet(one.logits_BQK.repeat(copies, 1, 1), one.boxes_BQ4.repeat(copies, 1, 1), 0)
    whole = Targets(targets.labels * copies, targets.boxes * copies, torch.ones(copies, 2))

    def taken(cap):
        torch.manual_seed(0)
        found = OneToManyMatcher(k=16, threshold=0.3, cap=cap).match(stack_sets([many]), whole)
        return found.box.valid_P.view(copies, 2, 16).sum(-1)

    a, b = taken(None)[0].tolist()
    first = taken(cap)[:, 0]
    assert min(a, b) > 2 and a + b > cap and (taken(cap).sum(1) == cap).all()
    for i in range(cap + 1):
        p = math.comb(a, i) * math.comb(b, cap - i) / math.comb(a + b, cap)
        assert abs((first == i).double().mean() - p) <= 4 * math.sqrt(p * (1 - p) / copies)


def test_nothing_is_copied_to_the_host():
    """On tensors without values, whatever would need a value on the host raises."""
    stack, targets = problem((3, 0, 2), 100)
    of_sizes = {"image_G": targets.image_G, "offsets_B": targets.offsets_B}  # the host knows these
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        held = (targets.labels, targets.boxes)
        empty = Targets(*(tuple(map(fake.from_tensor, x)) for x in held), targets.image_hw_B2)
        empty.__dict__.update({k: fake.from_tensor(x) for k, x in of_sizes.items()})
        seen = [SupervisedSet(*map(fake.from_tensor, (s.logits_BQK, s.boxes_BQ4)), 0) for s in stack.sets]
        for matcher in (OneToManyMatcher(tau=1.5), TopKMatcher(), TopKMatcher(costs=[L1Cost()], conflict="best")):
            assert len(matcher.match(stack_sets(seen), empty).box) == 2 * 5 * 6


def test_a_call_is_detrexs_protocol():
    stack, targets = problem((3, 0), 12, N=1, dtype=torch.float64)
    matcher = OneToManyMatcher(threshold=0.3, cap=None)
    as_theirs = [{"labels": x, "boxes": y} for x, y in zip(targets.labels, targets.boxes, strict=True)]
    found = matcher({"pred_logits": stack.logits_NBQK[0], "pred_boxes": stack.boxes_NBQ4[0]}, as_theirs)
    loops = {(q, g) for _, b, q, g in brute_force(matcher, stack, targets)[0] if b == 0}
    assert set(zip(*(x.tolist() for x in found[0]), strict=True)) == loops and len(found[1][0]) == 0


def test_predictions_that_are_not_numbers_are_named_by_the_criterion():
    stack, targets = problem((3, 2), 12, N=1)
    stack.sets[0].logits_BQK[0, 3] = float("nan")
    rule = detr_rule(OneToManyMatcher(tau=1.5))
    with pytest.raises(FloatingPointError, match="group 'main', path 'plain', stage 0"):
        SetCriterion([rule])(stack.sets, targets)


@pytest.mark.parametrize("softmax", [False, True])
def test_places_that_are_no_pairs_do_not_count(softmax):
    """Losses of the padded assignment equal those of its valid pairs alone."""
    stack, targets = problem((3, 2), 12, softmax=softmax, dtype=torch.float64)
    padded = OneToManyMatcher(threshold=0.3, tau=1.5).match(stack, targets)
    assert not padded.cls.valid_P.all() and not padded.box.valid_P.all()

    def compact(p):
        index = (x[p.valid_P] for x in (p.set_P, p.img_P, p.query_P, p.gt_P, p.weight_P))
        return Pairs(*index)

    tight = Assignment(compact(padded.cls), compact(padded.box))
    for loss in (SoftmaxLoss() if softmax else FocalLoss(), L1Loss(), GIoULoss()):
        found, wanted = (loss(Supervision(stack, a, targets)) for a in (padded, tight))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_repeated_objects_are_the_cheapest_fixed_number_each():
    stack, targets = problem((2, 0, 1), 8)
    (found,) = resolve([RepeatedMatcher(HungarianMatcher(), 3).match(stack, targets)], "cpu")
    pairs = as_dict(found.cls)
    for n in range(2):
        for g in range(3):
            assert sum(at[0] == n and at[3] == g for at in pairs) == 3
    assert all(targets.image_G[g] == b for _, b, _, g in pairs)
    cost = HungarianMatcher().cost(stack, targets)
    alone = {q for n, b, q, g in pairs if (n, g) == (0, 2)}
    assert alone == set(cost[0, 2].topk(3, largest=False).indices.tolist())


@pytest.mark.parametrize("matcher", [OneToManyMatcher(), TopKMatcher(), GivenMatcher()])
def test_objects_are_repeated_for_one_to_one_matchers_only(matcher):
    with pytest.raises(ValueError, match=f"one-to-one .* {type(matcher).__name__} decides itself"):
        RepeatedMatcher(matcher)


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"cap": 0}, {"threshold": -1}, {"tau": 0.0}, {"conflict": "none"}, {"w_iou": -0.1}]
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        OneToManyMatcher(**options)
