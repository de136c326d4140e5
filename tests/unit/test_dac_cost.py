"""Divide and conquer: the operations that it adds, counted on shapes at COCO's image size."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.analysis.costs import Costs, shapes_only
from detrex_ext.layers.ms_deform_backends import FORCE
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.strategies import DivideAndConquer
from detrex_ext.structures import Memory, Queries, Slot

DIM, HEADS, LEVELS, POINTS, FFN, CLASSES, STAGES = 256, 8, 4, 4, 2048, 91, 6
SHAPES = ((100, 167), (50, 84), (25, 42), (13, 21))  # 800 x 1333 pixels
TOKENS = 900 + 200  # with denoising


def macs(*strategies):
    """Multiply-adds of the decoder's forward pass in training."""
    decoder = DeformableDecoder(CLASSES, DIM, HEADS, LEVELS, POINTS, FFN, 0.0, STAGES, refine=True).train()
    costs = Costs()
    with torch.no_grad(), shapes_only(), costs:
        memory = torch.empty(1, sum(h * w for h, w in SHAPES), DIM)
        mem = Memory(memory, None, None, SHAPES, (8, 16, 32, 64), torch.ones(1, LEVELS, 2), torch.ones(1, 2))
        content, ref = torch.empty(1, TOKENS, DIM), torch.empty(1, TOKENS, 4)
        slots = (Slot(TOKENS - 900, "dn"), Slot(900, "main"))
        q = Queries(content, ref, slots, {}, {}, {"query_pos": torch.empty(1, TOKENS, DIM)})
        decoder(q, mem, strategies)
    return costs.flops / 2


def test_five_stages_more_of_what_acts_on_a_query_alone(monkeypatch):
    """One pass over both streams, the first stage shared: 6.8 G where two passes of six stages take 16.8 G."""
    monkeypatch.setenv(FORCE, "torch")
    entries = HEADS * LEVELS * POINTS
    attention = DIM * (2 * entries + entries + DIM) + 4 * LEVELS * POINTS * DIM
    feed_forward = 2 * DIM * FFN
    heads = DIM * CLASSES + 2 * DIM * DIM + 4 * DIM
    added = macs(DivideAndConquer()) - macs()
    assert added == 5 * TOKENS * (attention + feed_forward + heads)
    assert added - 5 * TOKENS * heads == pytest.approx(6.8e9, rel=0.01)
