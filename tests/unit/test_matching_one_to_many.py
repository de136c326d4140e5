"""One-to-many matching against loops over objects and queries."""

from __future__ import annotations

import math

import pytest
import torch
from by_loops import K, as_dict, brute_force, cases, check, problem
from torch._subclasses.fake_tensor import FakeTensorMode

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, SetCriterion, SoftmaxLoss, Supervision, detr_rule
from detrex_ext.matching import L1Cost, OneToManyMatcher, TopKMatcher, stack_sets
from detrex_ext.structures import Assignment, Given, Pairs, Prior, SupervisedSet, Targets


def test_5000_cases_equal_loops_over_objects_and_queries():
    shared = unmatched = 0
    for i, stack, targets in cases(5000):
        matcher = OneToManyMatcher(
            k=1 + i % 7,
            threshold=0.2 + 0.05 * (i % 8),
            cap=None,
            conflict=("multi", "best", "one_class", "last_class")[i // 2 % 4],
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
    """How many candidates of an object are drawn is hypergeometric; many copies of one image show it."""
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


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"cap": 0}, {"threshold": -1}, {"tau": 0.0}, {"conflict": "none"}, {"w_iou": -0.1}]
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        OneToManyMatcher(**options)
