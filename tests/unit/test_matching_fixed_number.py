"""Matching of a fixed number of queries to every object."""

from __future__ import annotations

import pytest
from by_loops import as_dict, cases, check, problem

from detrex_ext.matching import (
    GivenMatcher,
    HungarianMatcher,
    L1Cost,
    OneToManyMatcher,
    RepeatedMatcher,
    TopKMatcher,
    resolve,
)


@pytest.mark.parametrize("costs", [None, [L1Cost(5.0)]])
def test_the_best_k_equal_loops(costs):
    for i, stack, targets in cases(500):
        check(TopKMatcher(1 + i % 7, costs, ("multi", "best")[i % 2]), stack, targets)


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
