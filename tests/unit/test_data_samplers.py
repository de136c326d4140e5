"""The order of images: a pure function of (seed, iteration), whatever the ranks, the groups and the start."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from detrex_ext.data.samplers import TrainSampler, aspect_groups, shard
from detrex_ext.errors import UserError


def batches(sampler: TrainSampler, count: int) -> list:
    return list(islice(iter(sampler), count))


def test_every_epoch_visits_every_image_once():
    stream = [key for batch in batches(TrainSampler(10, 4, seed=1), 25) for key in batch]
    for epoch in range(10):
        assert sorted(i for e, i in stream if e == epoch) == list(range(10))
    orders = [[i for e, i in stream if e == epoch] for epoch in range(10)]
    assert len({tuple(order) for order in orders}) == 10
    # a batch that crosses the border of an epoch holds the end of one and the beginning of the next
    assert [e for e, _ in stream[8:12]] == [0, 0, 1, 1]


def test_seed_decides_the_order():
    first, again, other = (batches(TrainSampler(20, 4, seed=s), 5) for s in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("groups", [None, [0] * 7 + [1] * 3, [0] * 9 + [1], [0, 1, 2] * 3 + [2]])
@pytest.mark.parametrize("batch", [1, 4, 13])
def test_a_late_start_continues_the_same_stream(groups, batch):
    groups = None if groups is None else np.array(groups)
    whole = batches(TrainSampler(10, batch, 0, groups), 60)
    for start in (1, 2, 3, 7, 20, 41):
        sampler = TrainSampler(10, batch, 0, groups)
        sampler.set_start(start)
        assert batches(sampler, 60 - start) == whole[start:]


def test_groups_are_not_mixed_and_no_image_is_lost():
    groups = np.array([0] * 13 + [1] * 4)
    keys = []
    for batch in batches(TrainSampler(17, 6, 0, groups), 170):
        assert len({groups[i] for _, i in batch}) == 1
        keys += batch
    assert len(set(keys)) == len(keys)
    seen = Counter(i for _, i in keys)
    # 1020 keys are 60 epochs; an open batch of either group may hold back a few
    assert all(56 <= seen[i] <= 61 for i in range(17))


@pytest.mark.parametrize("groups", [None, np.array([0, 1] * 8 + [0])])
def test_ranks_take_slices_of_one_global_batch(groups):
    whole = batches(TrainSampler(17, 6, 5, groups), 30)
    for world in (2, 3, 6):
        parts = [batches(TrainSampler(17, 6, 5, groups, rank=r, world=world), 30) for r in range(world)]
        assert [sum(step, []) for step in zip(*parts, strict=True)] == whole


def test_a_batch_that_does_not_divide_is_explained():
    with pytest.raises(UserError, match=r"=16 does not divide over 3 processes[\s\S]*total_batch_size=15"):
        TrainSampler(10, 16, 0, rank=0, world=3)
    with pytest.raises(UserError, match="no images"):
        TrainSampler(0, 16, 0)


def test_a_far_start_is_cheap():
    sampler = TrainSampler(1000, 16, 0, np.arange(1000) % 2)
    sampler.set_start(10_000_000)
    drawn = []
    sampler.order = lambda epoch, order=sampler.order: drawn.append(epoch) or order(epoch)
    assert len(batches(sampler, 1)[0]) == 16
    assert len(drawn) <= 4


def test_evaluation_shards_are_contiguous_and_whole():
    for size, world in ((10, 3), (2, 4), (0, 2), (8, 1)):
        parts = [list(shard(size, rank, world)) for rank in range(world)]
        assert sum(parts, []) == list(range(size))
        lengths = [len(part) for part in parts]
        assert lengths == sorted(lengths, reverse=True) and max(lengths) - min(lengths) <= 1


def test_aspect_groups_by_wider_than_high():
    assert aspect_groups(np.array([[4, 5], [5, 5], [6, 5]])).tolist() == [1, 0, 0]
