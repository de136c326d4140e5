"""Denoising queries: who sees whom, which query restores which object, how far boxes are moved."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.modeling.queries import DenoisingQueries, LearnedQueries, TwoStageQueries
from detrex_ext.structures import Memory, Targets

K, Q, C = 3, 4, 8
SHAPES = ((4, 6), (2, 3))
SCALE = 0.4


def memory(images: int) -> Memory:
    tokens = torch.randn(images, sum(h * w for h, w in SHAPES), C)
    hw = torch.tensor([[32.0, 48.0]]).expand(images, 2)
    return Memory(tokens, None, None, SHAPES, (8, 16), torch.ones(images, 2, 2), hw)


def targets(counts: tuple[int, ...]) -> Targets:
    """Small boxes near the middle, so that no noised corner leaves the image."""
    boxes = [torch.cat([0.4 + 0.2 * torch.rand(n, 2), 0.1 + 0.1 * torch.rand(n, 2)], 1) for n in counts]
    labels = [torch.randint(0, K, (n,)) for n in counts]
    return Targets(tuple(labels), tuple(boxes), torch.tensor([[32.0, 48.0]]).expand(len(counts), 2))


def source(groups: int | None = 2, label_noise: float = 0.0, number: int = 100) -> DenoisingQueries:
    torch.manual_seed(0)
    inner = TwoStageQueries(K, Q, C, content="learned", score="max", supervise="selected")
    return DenoisingQueries(inner, K, C, number, groups, label_noise, SCALE).train()


def test_matching_queries_see_no_denoising_query_and_groups_only_themselves() -> None:
    queries, _ = source(groups=2)(memory(2), targets((3, 1)))
    noised, main = queries.slots
    assert (noised.group, noised.size, main.group, main.size) == ("dn", 2 * 2 * 3, "main", Q)
    assert noised.domain == main.domain
    mask = queries.masks[main.domain]
    P, one = noised.size, noised.size // 2
    assert mask[P:, P:].all() and not mask[P:, :P].any()
    assert mask[:one, :one].all() and mask[one:P, one:P].all()
    assert not mask[:one, one:P].any() and not mask[one:P, :one].any()
    assert mask[:P, P:].all()


def test_matching_queries_are_those_of_the_inner_source() -> None:
    made, mem = source(), memory(2)
    queries, sets = made(mem, targets((3, 1)))
    alone, alone_sets = made.source(mem, targets((3, 1)))
    assert torch.equal(queries.take("main").content_BTC, alone.content_BTC)
    assert torch.equal(queries.take("main").ref_BT4, alone.ref_BT4)
    assert [s.group for s in sets] == [s.group for s in alone_sets] == ["enc"]


def test_every_object_is_restored_once_per_group() -> None:
    found = targets((3, 0, 1))
    queries, _ = source(groups=2)(memory(3), found)
    given = queries.given["dn"]
    pairs = given.pairs
    assert given.scale == 2.0
    assert sorted(pairs.gt_P.tolist()) == sorted(list(range(4)) * 2)
    assert torch.equal(pairs.img_P, found.image_G[pairs.gt_P])
    assert len({(int(b), int(q)) for b, q in zip(pairs.img_P, pairs.query_P, strict=True)}) == len(pairs)


def corner_shift(queries, found: Targets, image: int, query: int, gt: int) -> torch.Tensor:
    """Movement of the four corners, in halves of the object's sides."""
    box = found.boxes_G4[gt]
    moved = box_cxcywh_to_xyxy(queries.take("dn").ref_BT4[image, query]) - box_cxcywh_to_xyxy(box)
    return moved.abs() / (box[2:] / 2).repeat(2)


def test_positives_move_by_less_than_the_scale_and_negatives_by_one_to_two_times() -> None:
    found = targets((3, 1))
    queries, _ = source(groups=40)(memory(2), found)
    pairs, most = queries.given["dn"].pairs, 3
    near, far = [], []
    for image, query, gt in zip(pairs.img_P.tolist(), pairs.query_P.tolist(), pairs.gt_P.tolist(), strict=True):
        near.append(corner_shift(queries, found, image, query, gt))
        far.append(corner_shift(queries, found, image, query + most, gt))
    near, far = torch.stack(near) / SCALE, torch.stack(far) / SCALE
    assert near.min() >= 0 and near.max() <= 1 + 1e-3 and near.max() > 0.9
    assert far.min() >= 1 - 1e-3 and far.max() <= 2 + 1e-3 and far.max() > 1.9


def test_labels_are_kept_or_flipped_with_half_the_ratio() -> None:
    found = targets((3, 1))
    kept = source(groups=3)
    queries, _ = kept(memory(2), found)
    pairs = queries.given["dn"].pairs
    content = queries.take("dn").content_BTC[pairs.img_P, pairs.query_P]
    assert torch.equal(content, kept.label_enc.weight[found.labels_G[pairs.gt_P]])
    torch.manual_seed(1)
    labels = torch.zeros(20_000, dtype=torch.int64)
    changed = (source(label_noise=0.5)._noise_labels(labels) != 0).float().mean()
    # a quarter is drawn anew, of which 1 in K draws the same label
    assert changed == pytest.approx(0.25 * (1 - 1 / K), abs=0.02)


def test_the_number_of_groups_follows_the_most_crowded_image() -> None:
    queries, _ = source(groups=None, number=10)(memory(2), targets((3, 1)))
    assert queries.given["dn"].scale == 10 // 3
    crowded, _ = source(groups=None, number=2)(memory(1), targets((5,)))
    assert crowded.given["dn"].scale == 1


def test_without_objects_the_slot_is_empty_and_the_embedding_still_in_use() -> None:
    made = source()
    queries, _ = made(memory(2), targets((0, 0)))
    assert [s.size for s in queries.slots] == [0, Q]
    assert len(queries.given["dn"].pairs) == 0
    queries.content_BTC.sum().backward()
    assert made.label_enc.weight.grad is not None and not made.label_enc.weight.grad.any()


def test_nothing_is_added_at_inference() -> None:
    queries, sets = source().eval()(memory(1))
    assert [s.group for s in queries.slots] == ["main"] and not queries.masks and not sets


def test_a_source_that_cannot_place_a_box_is_refused() -> None:
    with pytest.raises(ValueError, match="LearnedQueries cannot"):
        DenoisingQueries(LearnedQueries(Q, C), K, C)
