"""Hybrid and group queries: where they come from, what they share with the host's own, what is refused."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.criterion import SetCriterion, detr_rule, detr_rules, hybrid_rule
from detrex_ext.matching import OneToManyMatcher
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.queries import (
    AnchorQueries,
    DenoisingQueries,
    GroupQueries,
    HybridQueries,
    LearnedQueries,
    PositionQueries,
    QuerySource,
    TwoStageQueries,
    WholeImageQueries,
)
from detrex_ext.structures import Memory, Targets

K, Q, C, T = 4, 5, 16, 9
SHAPES = ((4, 6), (2, 3))
LEARNED = {
    "learned": lambda: LearnedQueries(Q, C),
    "position": lambda: PositionQueries(Q, C),
    "anchors": lambda: AnchorQueries(Q, C),
    "patterns": lambda: AnchorQueries(Q, C, num_patterns=2),
    "whole image": lambda: WholeImageQueries(Q, C),
    "mixed": lambda: TwoStageQueries(K, Q, C, content="mixed"),
    "selected": lambda: TwoStageQueries(K, Q, C, content="learned", score="max", supervise="selected"),
}
SOURCES = LEARNED | {c: lambda c=c: TwoStageQueries(K, Q, C, content=c) for c in ("projected", "memory")}


def memory(shapes=SHAPES):
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, sum(h * w for h, w in shapes), C, generator=g)
    return Memory(tokens, None, None, shapes, (8, 16), torch.ones(2, 2, 2), torch.tensor([[32.0, 48.0]] * 2))


def moved(source):
    """Parameters off their starts, so that proposals differ."""
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return source


@pytest.mark.parametrize("kind", SOURCES)
def test_extra_queries_lie_behind_the_hosts_own_in_a_domain_of_their_own(kind):
    torch.manual_seed(0)
    source, mem = moved(SOURCES[kind]()), memory()
    made = HybridQueries(source, T).train()
    queries, sets = made(mem)
    own, own_sets = source.train()(mem)
    main, extra = queries.slots
    assert (main, extra.group, extra.size) == (own.slots[0], "hybrid", T * (2 if kind == "patterns" else 1))
    assert extra.domain not in (None, main.domain) and extra.point == main.point and not queries.masks
    first = queries.take("main")
    assert torch.equal(first.content_BTC, own.content_BTC) and torch.equal(first.ref_BT4, own.ref_BT4)
    assert all(torch.equal(first.extra[k], v) for k, v in own.extra.items())
    assert len(sets) == len(own_sets)
    assert all(torch.equal(a.logits_BQK, b.logits_BQK) for a, b in zip(sets, own_sets, strict=True))
    alone, _ = made.eval()(mem)
    assert alone.slots == own.slots and torch.equal(alone.content_BTC, own.content_BTC)


@pytest.mark.parametrize("content", ["projected", "mixed", "learned", "memory"])
def test_extra_queries_of_two_stages_are_the_next_best_proposals(content):
    torch.manual_seed(0)
    source, mem = moved(TwoStageQueries(K, Q, C, content=content)), memory()
    queries, _ = HybridQueries(source, T).train()(mem)
    longer = TwoStageQueries(K, Q + T, C, content=content)
    own = {k: v for k, v in source.state_dict().items() if k != "tgt_embed.weight"}
    longer.load_state_dict(own, strict=False)
    ranked, _ = longer.train()(mem)
    assert torch.equal(queries.ref_BT4, ranked.ref_BT4)
    assert all(torch.equal(queries.extra[k], v) for k, v in ranked.extra.items())
    if content in ("projected", "memory"):
        assert torch.equal(queries.content_BTC, ranked.content_BTC)


@pytest.mark.parametrize("kind", LEARNED)
def test_new_rows_are_learned_and_start_like_the_hosts(kind):
    torch.manual_seed(0)
    made = HybridQueries(LEARNED[kind](), T).train()
    own, rows = made.source.rows().weight, made.extra.weight
    assert all(set(rows[:, c].tolist()) <= set(own[:, c].tolist()) for c in range(own.shape[1]))
    extra = made(memory())[0].take("hybrid")
    sum(x.square().sum() for x in (extra.content_BTC, extra.ref_BT4, *extra.extra.values())).backward()
    assert rows.grad.any()


@pytest.mark.parametrize("shapes, left", [(((2, 3), (1, 2)), 3), (((1, 3), (1, 1)), 0)])
def test_a_short_memory_leaves_fewer_extra_queries_and_the_same_losses(shapes, left):
    torch.manual_seed(0)
    made = HybridQueries(TwoStageQueries(K, Q, C, content="mixed"), T).train()
    decoder = DeformableDecoder(K, C, 2, 2, 2, 16, 0.0, 2, refine=True).train()
    queries, _ = made(memory(shapes))
    extra = queries.take("hybrid").content_BTC
    assert extra.shape[1] == left and all(torch.equal(x, made.extra.weight[:left]) for x in extra)
    assert (queries.slots[1].domain is None) == (left == 0)  # nobody attends to nothing
    rules = detr_rules(("main",))
    criterion = SetCriterion({**rules, "hybrid": hybrid_rule(rules["main"])})
    losses = criterion(decoder(queries, memory(shapes)), objects((1, 0)))
    assert len(losses) == 6
    sum(losses.values()).backward()
    learned = (made.extra.weight, made.source.tgt_embed.weight)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)


def objects(counts):
    g = torch.Generator().manual_seed(1)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    boxes = tuple(0.2 + 0.4 * torch.rand(n, 4, generator=g) for n in counts)
    return Targets(labels, boxes, torch.ones(len(counts), 2))


@pytest.mark.parametrize("kind", SOURCES)
def test_every_group_is_a_source_of_its_own(kind):
    torch.manual_seed(0)
    source, mem = moved(SOURCES[kind]()), memory()
    made = GroupQueries(source, 3).train()
    queries, sets = made(mem)
    own, own_sets = source(mem)
    assert [s.group for s in queries.slots] == ["group", "group", "main"]
    assert len({s.domain for s in queries.slots}) == 3 and {s.size for s in queries.slots} == {own.slots[0].size}
    assert {g: v.sets for g, v in queries.given.items()} == {"main": 3, "group": 3}
    assert len(sets) == 3 * len(own_sets) and all(s.given.sets == 3 for s in sets)
    for i, other in enumerate(made.others):
        part = queries.select([j == i for j in range(3)])
        alone, _ = other(mem)
        assert torch.equal(part.content_BTC, alone.content_BTC) and torch.equal(part.ref_BT4, alone.ref_BT4)
    assert torch.equal(queries.take("main").ref_BT4, own.ref_BT4)
    again, _ = made.eval()(mem)
    assert again.slots == source.eval()(mem)[0].slots and not again.given


def test_groups_start_apart_with_the_same_values():
    torch.manual_seed(0)
    made = GroupQueries(TwoStageQueries(K, Q, C, content="mixed"), 3)
    for (name, a), b, c in zip(made.source.named_parameters(), *(o.parameters() for o in made.others), strict=True):
        assert torch.equal(a.sort(0).values, b.sort(0).values) or a.dim() == 1, name
        if a.dim() > 1 and a.std(0).any():
            assert not torch.equal(a, b) and not torch.equal(b, c), name


@pytest.mark.parametrize("wrap", [lambda s: HybridQueries(s, T), lambda s: GroupQueries(s, 3)], ids=["hybrid", "group"])
def test_first_boxes_are_known_of_main_and_hybrid_queries_and_refused_of_groups(wrap):
    torch.manual_seed(0)
    queries, _ = wrap(moved(SOURCES["projected"]())).train()(memory())
    sets = DeformableDecoder(K, C, 2, 2, 2, 16, 0.0, 2, refine=True).train()(queries, memory())
    of_group = {s.group: s.given.prior for s in sets}
    assert torch.equal(of_group["main"].boxes_BQ4, queries.take("main").ref_BT4)
    criterion = SetCriterion({g: detr_rule(OneToManyMatcher(boxes="prior")) for g in of_group})
    if "hybrid" in of_group:
        assert torch.equal(of_group["hybrid"].boxes_BQ4, queries.take("hybrid").ref_BT4)
        assert all(x.isfinite() for x in criterion(sets, objects((2, 1))).values())
    else:
        with pytest.raises(ValueError, match="group 'group', .* not of group queries.* Use boxes='predicted'"):
            criterion(sets, objects((2, 1)))


class OnlyItsOwn(QuerySource):
    pass


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HybridQueries(DenoisingQueries(AnchorQueries(Q, C), K, C)), "put denoising outside"),
        (lambda: HybridQueries(GroupQueries(AnchorQueries(Q, C))), "choose one of hybrid and group"),
        (lambda: GroupQueries(HybridQueries(AnchorQueries(Q, C))), "choose one of hybrid and group"),
        (lambda: HybridQueries(OnlyItsOwn()), "OnlyItsOwn makes no extra queries"),
        (lambda: HybridQueries(AnchorQueries(Q, C), 0), "num_extra must be at least 1"),
        (lambda: GroupQueries(AnchorQueries(Q, C), 1), "groups must be at least 2"),
        (lambda: DenoisingQueries(HybridQueries(LearnedQueries(Q, C)), K, C), "LearnedQueries cannot"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
