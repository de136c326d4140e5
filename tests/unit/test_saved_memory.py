"""benchmarks/saved_memory.py: the forms it compares are the same computation."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch

from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.queries import LearnedQueries
from detrex_ext.strategies import QueryRecollection

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "saved_memory.py"))


def test_repeated_memory_gives_the_same_sets_and_keeps_more():
    torch.manual_seed(0)
    mem = SCRIPT["memory"](2, 128, 128, dim=16)
    decoder = DeformableDecoder(3, 16, 2, 4, 2, 24, 0.0, 6).train()
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
        q, _ = LearnedQueries(4, 16)(mem)
    sets = decoder(q, mem, [QueryRecollection()])
    stages = SCRIPT["repeated"](decoder, q, mem)
    for i, (logits, boxes, _) in enumerate(stages):
        own = [s for s in sets if s.stage == i]
        torch.testing.assert_close(torch.cat([s.logits_BQK for s in own]), logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.cat([s.boxes_BQ4 for s in own]), boxes, rtol=0, atol=1e-5)
    kept = [
        SCRIPT["kept"](decoder, run)
        for run in (
            lambda: decoder(q, mem),
            lambda: decoder(q, mem, [QueryRecollection()]),
            lambda: SCRIPT["repeated"](decoder, q, mem),
        )
    ]
    assert kept == sorted(kept)


def test_each_storage_counts_once_and_parameters_do_not():
    layer, x = torch.nn.Linear(8, 8, bias=False), torch.randn(4, 8, requires_grad=True)
    # the product keeps x (and the weight), the square keeps the product
    assert SCRIPT["kept"](layer, lambda: layer(x).square() + layer(x[:2].detach()).sum()) == 2 * 4 * 8 * 4
