"""Query recollection: the schedule's published tables, and every set against its lineage run layer by layer."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from detrex_ext.errors import UserError
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.queries import LearnedQueries, TwoStageQueries
from detrex_ext.strategies import QueryRecollection
from detrex_ext.structures import Memory

DIM = 16
SHAPES = ((4, 4), (2, 2))


def build(layers=6, kind="two_stage", dtype=torch.float64):
    torch.manual_seed(0)
    refine = kind != "plain"
    decoder = DeformableDecoder(3, DIM, 2, 2, 2, 24, 0.0, layers, refine=refine)
    if kind == "two_stage":
        source = TwoStageQueries(3, 5, DIM, anchor_size=0.1)
    else:
        source = LearnedQueries(5, DIM)
    model = torch.nn.ModuleDict({"source": source, "decoder": decoder}).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.train()


def memory(B=2, dtype=torch.float64):
    torch.manual_seed(1)
    S = sum(h * w for h, w in SHAPES)
    ones = torch.ones(B, 2, 2, dtype=dtype)
    return Memory(torch.randn(B, S, DIM, dtype=dtype), None, None, SHAPES, (8, 16), ones, torch.ones(B, 2))


def lineages(layers, window, start):
    """Stages each set went through, stage by stage in the order of section 1.1 of the paper's schedule."""
    outputs = {-1: [()]}
    for stage in range(layers):
        k = 1 if stage < start else (stage + 1 if window is None else window)
        entering = [line for s in range(max(-1, stage - k), stage) for line in outputs[s]]
        outputs[stage] = [(*line, stage) for line in entering]
    return [outputs[s] for s in range(layers)]


@pytest.mark.parametrize(
    "layers, window, start, counts",
    [
        (6, 2, 1, [1, 2, 3, 5, 8, 13]),
        (6, 2, 2, [1, 1, 2, 3, 5, 8]),
        (6, 2, 3, [1, 1, 1, 2, 3, 5]),
        (6, 2, 4, [1, 1, 1, 1, 2, 3]),
        (6, 2, 5, [1, 1, 1, 1, 1, 2]),
        (7, 2, 1, [1, 2, 3, 5, 8, 13, 21]),
        (6, None, 1, [1, 2, 4, 8, 16, 32]),
        (6, 1, 1, [1] * 6),
        (4, 3, 1, [1, 2, 4, 7]),
    ],
)
def test_number_of_sets_per_stage(layers, window, start, counts):
    model = build(layers)
    q, _ = model["source"](memory())
    sets = model["decoder"](q, memory(), [QueryRecollection(window, start)])
    assert [sum(s.stage == i for s in sets) for i in range(layers)] == counts
    assert [sum(s.stage == i and s.path == "plain" for s in sets) for i in range(layers)] == [1] * layers
    assert [len(x) for x in lineages(layers, window, start)] == counts == QueryRecollection(window, start).sets(layers)


@pytest.mark.parametrize("B", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "kind, options",
    [("two_stage", {}), ("plain", {}), ("refine", {"start_stage": 2}), ("refine", {"lift_points": True})],
)
def test_every_set_equals_its_lineage_run_layer_by_layer(kind, options, B):
    model, mem = build(4, kind), memory(B)
    decoder, strategy = model["decoder"], QueryRecollection(**options)
    q0, _ = model["source"](mem)
    sets = decoder(q0, mem, [strategy])
    for stage, lines in enumerate(lineages(4, strategy.window, strategy.start_stage)):
        found = [s for s in sets if s.stage == stage]
        assert len(found) == len(lines) and found[-1].path == "plain"
        for one, line in zip(found, lines, strict=True):
            q = q0
            if line[0] != 0 and options.get("lift_points"):
                size = torch.full_like(q0.ref_BT4[..., 2:], -2.0).sigmoid()
                q = q0.replace(
                    ref_BT4=torch.cat([q0.ref_BT4[..., :2], size], -1), slots=(replace(q0.slots[0], point=False),)
                )
            for layer in line:
                logits, boxes, q = decoder.stage(layer, q, mem)
            torch.testing.assert_close(one.logits_BQK, logits, rtol=0, atol=1e-12)
            torch.testing.assert_close(one.boxes_BQ4, boxes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_plain_path_is_the_bare_hosts(dtype, tolerance):
    model, mem = build(dtype=dtype), memory(dtype=dtype)
    q, _ = model["source"](mem)
    bare = model["decoder"](q, mem)
    plain = [s for s in model["decoder"](q, mem, [QueryRecollection()]) if s.path == "plain"]
    assert len(plain) == len(bare)
    for a, b in zip(bare, plain, strict=True):
        torch.testing.assert_close(a.logits_BQK, b.logits_BQK, rtol=0, atol=tolerance)
        torch.testing.assert_close(a.boxes_BQ4, b.boxes_BQ4, rtol=0, atol=tolerance)


def test_recollected_sets_need_no_mask_and_share_their_attention_calls(monkeypatch):
    """What denoising hides is hidden from the plain path alone; all else of a stage is one call without a mask."""
    model, calls = build(), []
    q, _ = model["source"](memory())
    size = q.content_BTC.shape[1]
    q = q.replace(masks={q.slots[0].domain: torch.ones(size, size, dtype=torch.bool)})
    for layer in model["decoder"].layers:
        own = layer.attentions[0].forward
        monkeypatch.setattr(
            layer.attentions[0], "forward", lambda x, p, m, own=own: calls.append((len(x), m is None)) or own(x, p, m)
        )
    model["decoder"](q, memory(), [QueryRecollection(2)])
    assert sorted(calls) == sorted([(2, False)] * 6 + [(2 * n, True) for n in (1, 2, 4, 7, 12)])


def test_chunks_give_the_same_values_and_gradients():
    mem, grads = memory(), []
    for chunk in (None, 1, 2):
        model = build(4)
        model["decoder"].chunk = chunk
        q, _ = model["source"](mem)
        sets = model["decoder"](q, mem, [QueryRecollection()])
        loss = sum(((i + 1) * s.logits_BQK.sin()).sum() + s.boxes_BQ4.square().sum() for i, s in enumerate(sets))
        loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_mixed_points_and_boxes_are_refused_with_the_way_out():
    model, mem = build(4, "refine"), memory()
    q, _ = model["source"](mem)
    with pytest.raises(UserError, match="lift_points=true, or .start_stage=3: points"):
        model["decoder"](q, mem, [QueryRecollection(3)])
    assert model["decoder"](q, mem, [QueryRecollection(3, start_stage=3)])
    with pytest.raises(UserError, match="lift_points=true$"):  # all stages take the points
        model["decoder"](q, mem, [QueryRecollection(None, start_stage=3)])


def test_dense_recollection_with_a_recurrent_last_stage():
    """DQRR: the last stage runs once more on the sets it made, and each then equals its lineage with it twice."""
    model, mem = build(4), memory()
    q0, _ = model["source"](mem)
    sets = model["decoder"](q0, mem, [QueryRecollection(None, repeat_last=True)])
    assert [sum(s.stage == i for s in sets) for i in range(5)] == [1, 2, 4, 8, 8]
    lines = [(*line, 3) for line in lineages(4, None, 1)[3]]
    for one, line in zip([s for s in sets if s.stage == 4], lines, strict=True):
        q = q0
        for layer in line:
            logits, boxes, q = model["decoder"].stage(layer, q, mem)
        torch.testing.assert_close(one.logits_BQK, logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(one.boxes_BQ4, boxes, rtol=0, atol=1e-12)


def test_six_dense_stages_and_their_recurrence_are_95_sets():
    model, mem = build(6), memory(1)
    q0, _ = model["source"](mem)
    assert len(model["decoder"](q0, mem, [QueryRecollection(None, repeat_last=True)])) == 95


def test_one_stage_looped_at_inference_is_the_stage_applied_by_hand():
    model, mem = build(4).eval(), memory()
    model["decoder"].eval_order = (3, 3, 3)
    q, _ = model["source"](mem)
    sets = model["decoder"](q, mem)
    for one in sets:
        logits, boxes, q = model["decoder"].stage(3, q, mem)
        assert torch.equal(one.logits_BQK, logits) and torch.equal(one.boxes_BQ4, boxes)
    assert len(sets) == 3


def test_options_are_checked():
    with pytest.raises(ValueError, match="window"):
        QueryRecollection(window=0)
    with pytest.raises(ValueError, match="start_stage"):
        QueryRecollection(start_stage=0)
    QueryRecollection(start_stage=3).check(4)
    with pytest.raises(ValueError, match="start_stage=4: nothing is recollected, the last stage is 3"):
        QueryRecollection(start_stage=4).check(4)


def test_a_strategy_keeps_nothing_of_a_step():
    contents = []

    class Watched(QueryRecollection):
        def after_stage(self, step, history, sets, q):
            contents.append(weakref.ref(history[-1].content_BTC))
            return super().after_stage(step, history, sets, q)

    model, mem, strategy = build(4), memory(), Watched(repeat_last=True)
    q0, _ = model["source"](mem)
    model["decoder"](q0, mem, [strategy])
    gc.collect()
    assert [content() is None for content in contents] == [False, *[True] * 5]  # the initial queries are ours
