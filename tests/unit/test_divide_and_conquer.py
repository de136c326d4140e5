"""Divide and conquer: auxiliary sets against passes of their own, gradients, composition, derived rules."""

from __future__ import annotations

import pytest
import torch
from contract.hosts import HOSTS, Both

from detrex_ext.criterion import FocalLoss, SetCriterion, SoftmaxLoss, detr_rules
from detrex_ext.matching import GivenMatcher, OneToManyMatcher
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.queries import DenoisingQueries, TwoStageQueries
from detrex_ext.strategies import DivideAndConquer, QueryRecollection
from detrex_ext.structures import Memory, Targets
from detrex_ext.testing import check_strategy

DIM, LAYERS = 16, 4
SHAPES = ((4, 4), (2, 2))


def build(dn=True):
    torch.manual_seed(0)
    decoder = DeformableDecoder(
        3, DIM, 2, 2, 2, 24, 0.0, LAYERS, refine=True, position="reference", look_forward_twice=True, post_norm=True
    )
    source = TwoStageQueries(3, 5, DIM, content="learned", score="max", anchor_size=0.1)
    source = DenoisingQueries(source, 3, DIM, groups=2) if dn else source
    model = torch.nn.ModuleDict({"source": source, "decoder": decoder}).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.train()


def inputs(counts=(2, 1)):
    g = torch.Generator().manual_seed(1)
    S, B = sum(h * w for h, w in SHAPES), len(counts)
    ones = torch.ones(B, 2, 2, dtype=torch.float64)
    tokens = torch.randn(B, S, DIM, dtype=torch.float64, generator=g)
    mem = Memory(tokens, None, None, SHAPES, (8, 16), ones, torch.ones(B, 2))
    boxes = tuple(0.2 + 0.3 * torch.rand(n, 4, dtype=torch.float64, generator=g) for n in counts)
    labels = tuple(torch.randint(0, 3, (n,), generator=g) for n in counts)
    return mem, Targets(labels, boxes, torch.ones(B, 2))


def run(model, mem, targets, *strategies):
    torch.manual_seed(2)
    q, _ = model["source"](mem, targets)
    return q, model["decoder"](q, mem, strategies)


def aux(sets, group="main"):
    return [s for s in sets if s.path == "aux" and s.group == group]


def plain(sets, group="main"):
    return [s for s in sets if s.path == "plain" and s.group == group]


def same(a, b, tolerance=1e-12):
    torch.testing.assert_close(a.logits_BQK, b.logits_BQK, rtol=0, atol=tolerance)
    torch.testing.assert_close(a.boxes_BQ4, b.boxes_BQ4, rtol=0, atol=tolerance)


@pytest.mark.parametrize("start", ["shared", "init"])
def test_one_pass_equals_two(start):
    """Auxiliary sets run beside the plain ones are those of a pass of their own, without self-attention."""
    model, (mem, targets) = build(), inputs()
    q, sets = run(model, mem, targets, DivideAndConquer(start=start))
    _, bare = run(model, mem, targets)
    for group in ("main", "dn"):
        for a, b in zip(plain(sets, group), plain(bare, group), strict=True):
            same(a, b)
    decoder, first = model["decoder"], 0
    if start == "shared":
        for group in ("main", "dn"):
            twin, one = aux(sets, group)[0], plain(sets, group)[0]
            assert twin.logits_BQK is one.logits_BQK and twin.boxes_BQ4 is one.boxes_BQ4
        *_, q = decoder.stage(0, q, mem)
        first = 1
    q = q.retag(path="aux", attend=False)
    for layer in range(first, LAYERS):
        logits, boxes, q = decoder.stage(layer, q, mem)
        for slot, a, b in q.spans():
            one = aux(sets, slot.group)[layer]
            assert one.stage == layer
            torch.testing.assert_close(one.logits_BQK, logits[:, a:b], rtol=0, atol=1e-12)
            torch.testing.assert_close(one.boxes_BQ4, boxes[:, a:b], rtol=0, atol=1e-12)


def test_self_attention_after_the_shared_stage_learns_nothing_from_auxiliary_sets():
    model, (mem, targets) = build(), inputs()
    _, sets = run(model, mem, targets, DivideAndConquer())
    sum(s.logits_BQK.sin().sum() + s.boxes_BQ4.sum() for s in aux(sets)).backward()
    for i, layer in enumerate(model["decoder"].layers):
        attention = [*layer.attentions[0].parameters(), *layer.norms[0].parameters()]
        reached = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in attention]
        assert any(reached) == (i == 0)
        assert all(p.grad.abs().max() > 0 for p in layer.ffns.parameters())


def test_an_auxiliary_query_depends_on_itself_alone():
    model, (mem, targets) = build(dn=False), inputs()
    q, _ = model["source"](mem, targets)
    strategy = DivideAndConquer(start="init")
    before = aux(model["decoder"](q, mem, [strategy]))
    content = q.content_BTC.clone()
    content[:, 2] += 1.0
    after = aux(model["decoder"](q.replace(content_BTC=content), mem, [strategy]))
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = q.replace(content_BTC=q.content_BTC[:, order], ref_BT4=q.ref_BT4[:, order])
    permuted = aux(model["decoder"](turned, mem, [strategy]))
    for a, b, c in zip(before, after, permuted, strict=True):
        changed = (a.logits_BQK - b.logits_BQK).abs().amax((0, 2)) > 1e-9
        assert changed.tolist() == [False, False, True, False, False]
        torch.testing.assert_close(a.logits_BQK[:, order], c.logits_BQK, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", ["sqr", "dac"])
def test_beside_recollection_there_is_one_more_set_per_stage_and_the_others_stay(first):
    model, (mem, targets) = build(), inputs()
    strategies = {"sqr": QueryRecollection(), "dac": DivideAndConquer()}
    _, both = run(model, mem, targets, *(strategies[k] for k in sorted(strategies, key=lambda k: k != first)))
    _, sqr = run(model, mem, targets, strategies["sqr"])
    _, dac = run(model, mem, targets, strategies["dac"])
    others = [s for s in both if s.path != "aux"]
    assert len(others) == len(sqr) == sum((1, 2, 3, 5)) + LAYERS
    for a, b in zip(others, sqr, strict=True):
        assert (a.stage, a.group, a.path) == (b.stage, b.group, b.path)
        same(a, b)
    for group in ("main", "dn"):
        assert [s.stage for s in aux(both, group)] == list(range(LAYERS))
        for a, b in zip(aux(both, group), aux(dac, group), strict=True):
            same(a, b)


@pytest.mark.parametrize("start", ["shared", "init"])
def test_recollected_sets_may_have_twins_of_their_own(start):
    """As many auxiliary sets as others; each is matched by its twin's boxes, and none is ever recollected."""
    model, (mem, targets) = build(), inputs()
    dac = DivideAndConquer(start=start, recollected=True)
    _, both = run(model, mem, targets, QueryRecollection(), dac)
    _, sqr = run(model, mem, targets, QueryRecollection())
    others = [s for s in both if s.path != "aux"]
    for a, b in zip(others, sqr, strict=True):
        assert (a.stage, a.group, a.path) == (b.stage, b.group, b.path)
        same(a, b)
    for stage in range(LAYERS):
        own = [s for s in others if s.stage == stage and s.group == "main"]
        twins = [s for s in aux(both) if s.stage == stage]
        assert len(twins) == len(own) == (1, 2, 3, 5)[stage]
        assert all(a.match_boxes_BQ4 is b.boxes_BQ4 for a, b in zip(twins, own, strict=True))
        assert len([s for s in aux(both, "dn") if s.stage == stage]) == 1


def test_a_twin_of_a_recollected_set_is_its_own_pass_without_self_attention():
    model, (mem, targets) = build(dn=False), inputs()
    q, sets = run(model, mem, targets, QueryRecollection(), DivideAndConquer(recollected=True))
    # of the second stage's sets the first holds the initial queries
    recollected = q.retag(path="aux", attend=False)
    for layer in (1, 2, 3):
        logits, boxes, recollected = model["decoder"].stage(layer, recollected, mem)
        twins = [s for s in aux(sets) if s.stage == layer]
        assert sum(torch.allclose(t.logits_BQK, logits, rtol=0, atol=1e-12) for t in twins) == 1
        assert sum(torch.allclose(t.boxes_BQ4, boxes, rtol=0, atol=1e-12) for t in twins) == 1


@pytest.mark.parametrize("host", ["deformable, two-stage, dn", "adamixer"])
def test_twins_of_recollected_sets_keep_the_contract(host):
    check_strategy(Both(QueryRecollection(), DivideAndConquer(recollected=True)), HOSTS[host]())


@pytest.mark.parametrize("source", ["main", "own"])
def test_twins_of_recollected_sets_need_the_recollection_before(source):
    model, (mem, targets) = build(dn=False), inputs()
    with pytest.raises(ValueError, match="the recollection comes before it"):
        run(model, mem, targets, DivideAndConquer(recollected=True, box_source=source), QueryRecollection())


def test_options_choose_sets_and_boxes():
    model, (mem, targets) = build(), inputs()
    _, sets = run(model, mem, targets, DivideAndConquer(denoising=False, first_stage=2))
    assert [s.stage for s in aux(sets)] == [2, 3] and not aux(sets, "dn")
    assert all(a.match_boxes_BQ4 is b.boxes_BQ4 for a, b in zip(aux(sets), plain(sets)[2:], strict=True))
    _, sets = run(model, mem, targets, DivideAndConquer(box_source="own"))
    assert all(s.match_boxes_BQ4 is None for s in sets)
    with pytest.raises(ValueError, match="box_source"):
        DivideAndConquer(box_source="both")
    with pytest.raises(ValueError, match="start"):
        DivideAndConquer(start="later")
    with pytest.raises(ValueError, match="norm_factor"):
        DivideAndConquer(norm_factor=0)
    with pytest.raises(ValueError, match="first_stage"):
        DivideAndConquer(first_stage=-1)


def test_rules_derive_from_the_hosts():
    host = detr_rules(("main", "enc", "dn"), class_weight=1.5)
    main, dn = DivideAndConquer(weight=0.5, dn_weight=2.0, class_weight=4.0).rules(host)
    assert isinstance(main.matcher, OneToManyMatcher) and isinstance(dn.matcher, GivenMatcher)
    assert {n: t.weight for n, t in main.terms.items()} == {"class": 2.0, "bbox": 2.5, "giou": 1.0}
    assert {n: t.weight for n, t in dn.terms.items()} == {"class": 3.0, "bbox": 10.0, "giou": 4.0}
    assert isinstance(main.terms["class"].loss, FocalLoss)
    assert {t.normalizer.factor for t in main.terms.values()} == {3.0}
    assert {t.normalizer.factor for t in dn.terms.values()} == {1.0}
    softmax = DivideAndConquer().rules(detr_rules(softmax=True))
    assert len(softmax) == 1 and isinstance(softmax[0].terms["class"].loss, SoftmaxLoss)
    assert softmax[0].terms["class"].normalizer is detr_rules(softmax=True)["main"].terms["class"].normalizer


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_all_streams_train_with_and_without_objects(counts):
    model, (mem, targets) = build(), inputs(counts)
    strategy = DivideAndConquer()
    host = detr_rules(("main", "dn"))
    _, sets = run(model, mem, targets, strategy)
    losses = SetCriterion([*strategy.rules(host), *host.values()])(sets, targets)
    streams = {
        f"loss_{term}{stream}" for term in ("class", "bbox", "giou") for stream in ("", "_dn", "_aux", "_dn_aux")
    }
    assert losses.keys() == streams
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if any(counts):
        # the shared stage: denoising counts twice, with the same pairs
        torch.testing.assert_close(losses.stats["stage0/loss_class_dn"], losses.stats["stage0/loss_class_dn_aux"])
