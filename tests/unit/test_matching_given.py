"""Pairs known beforehand."""

import pytest
import torch

from detrex_ext.matching import GivenMatcher, stack_sets
from detrex_ext.structures import Given, Pairs, SupervisedSet, Targets

TARGETS = Targets(
    (torch.tensor([1]), torch.tensor([0, 2])), (torch.rand(1, 4), torch.rand(2, 4)), torch.ones(2, 2)
)


def pairs(query, weight=None):
    image = torch.tensor([0, 1, 1])
    return Pairs(torch.zeros(3, dtype=torch.int64), image, torch.tensor(query), torch.tensor([0, 1, 2]), weight)


def stack(N=2, Q=5, **given):
    shared = Given(**given)
    sets = [SupervisedSet(torch.randn(2, Q, 3), torch.rand(2, Q, 4), n, "dn", given=shared) for n in range(N)]
    return stack_sets(sets)


def test_every_set_gets_the_sources_pairs():
    found = GivenMatcher().match(stack(pairs=pairs([4, 0, 2])), TARGETS)
    assert found.cls is found.box
    assert found.cls.set_P.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.cls.img_P.tolist() == [0, 1, 1] * 2
    assert found.cls.query_P.tolist() == [4, 0, 2] * 2
    assert found.cls.gt_P.tolist() == [0, 1, 2] * 2
    assert found.cls.weight_P is None


def test_pairs_of_the_batch():
    taught = pairs([1, 1, 3], torch.tensor([0.5, 1.0, 2.0]))
    targets = Targets(TARGETS.labels, TARGETS.boxes, TARGETS.image_hw_B2, taught)
    found = GivenMatcher(source="targets").match(stack(pairs=pairs([4, 0, 2])), targets)
    assert found.cls.query_P.tolist() == [1, 1, 3] * 2
    assert found.cls.weight_P.tolist() == [0.5, 1.0, 2.0] * 2


def test_pairs_of_invalid_queries_weigh_nothing():
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 0] = False
    found = GivenMatcher().match(stack(1, pairs=pairs([4, 0, 2]), valid_BQ=valid), TARGETS)
    assert found.cls.weight_P.tolist() == [1, 0, 1]


def test_missing_pairs_are_an_error_only_where_there_are_queries():
    with pytest.raises(ValueError, match="no pairs from the set's source for group 'dn', path 'plain', stage 0"):
        GivenMatcher().match(stack(), TARGETS)
    with pytest.raises(ValueError, match="Targets.pairs"):
        GivenMatcher(source="targets").match(stack(), TARGETS)
    assert len(GivenMatcher().match(stack(Q=0), TARGETS).cls) == 0
    with pytest.raises(ValueError, match="'set' or 'targets'"):
        GivenMatcher(source="other")
