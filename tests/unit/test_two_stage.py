"""Two-stage queries: what the kinds of content share; and the encoder that recomputes its layers."""

from __future__ import annotations

import copy

import pytest
import torch

from detrex_ext.modeling.encoders import DeformableEncoder
from detrex_ext.modeling.queries import TwoStageQueries
from detrex_ext.structures import Features, Memory

Q, C = 4, 8
SHAPES = ((4, 6), (2, 3))


def memory() -> Memory:
    torch.manual_seed(0)
    tokens = torch.randn(2, sum(h * w for h, w in SHAPES), C)
    return Memory(tokens, None, None, SHAPES, (8, 16), torch.ones(2, 2, 2), torch.tensor([[32.0, 48.0]] * 2))


def source(content: str) -> TwoStageQueries:
    torch.manual_seed(1)
    made = TwoStageQueries(3, Q, C, content="projected")
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    other = TwoStageQueries(3, Q, C, content=content)
    other.load_state_dict(made.state_dict(), strict=False)
    return other


def test_mixed_selection_has_the_position_of_the_proposal_and_learned_content():
    mem = memory()
    projected, mixed, learned = (source(c)(mem)[0] for c in ("projected", "mixed", "learned"))
    assert torch.equal(mixed.ref_BT4, projected.ref_BT4) and torch.equal(mixed.ref_BT4, learned.ref_BT4)
    assert torch.equal(mixed.extra["query_pos"], projected.extra["query_pos"])
    assert not learned.extra
    made = source("mixed")
    assert torch.equal(made(mem)[0].content_BTC, made.tgt_embed.weight.expand(2, -1, -1))


@pytest.mark.parametrize("content", ["projected", "mixed", "learned", "memory"])
def test_a_placed_box_is_the_query_that_a_proposal_of_that_box_would_be(content):
    made, mem = source(content), memory()
    queries, _ = made(mem)
    ref, extra = made.place(queries.ref_BT4, mem)
    assert torch.equal(ref, queries.ref_BT4) and extra.keys() == queries.extra.keys()
    assert all(torch.equal(extra[k], v) for k, v in queries.extra.items())


def test_recomputed_layers_give_the_same_memory_and_gradients():
    torch.manual_seed(0)
    plain = DeformableEncoder(C, 2, 2, 2, 16, 0.0, 2).train()
    again = copy.deepcopy(plain)
    again.checkpoint = True
    maps = [torch.randn(2, C, h, w) for h, w in SHAPES]
    pads = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in SHAPES]
    grads = []
    for encoder in (plain, again):
        features = Features(maps, pads, (8, 16), torch.tensor([[32.0, 48.0]] * 2))
        mem, _ = encoder(features)
        mem.tokens_BSC.sin().sum().backward()
        grads.append([mem.tokens_BSC, *(p.grad for p in encoder.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
