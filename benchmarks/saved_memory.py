#!/usr/bin/env python
"""Bytes kept for the backward pass: by Deformable-DETR's decoder under query recollection, and by TSP's set encoder.

    python benchmarks/saved_memory.py [--batch 1] [--height 800 --width 1333]
    python benchmarks/saved_memory.py --tokens 700 --batch 4

Of the decoder three forms of the same step at COCO's image size: the sets side by side on the token axis, the sets as a
batch of their own with the memory repeated for each (the form of the authors' code), and the bare decoder. Of the set
encoder attention by its formula, with maps and their dropout (the form of the authors' code), torch's fused attention,
and layers that are computed again. Counted are the storages that autograd keeps, each once, without parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from detrex_ext.config import load_config
from detrex_ext.layers.set_encoder import SetEncoder
from detrex_ext.modeling.decoders import StagedDecoder
from detrex_ext.runtime import instantiate
from detrex_ext.strategies import QueryRecollection
from detrex_ext.structures import Memory, Queries

STRIDES = (8, 16, 32, 64)


def memory(batch: int, height: int, width: int, dim: int = 256) -> Memory:
    """Random encoder output of four levels."""
    shapes = tuple((-(-height // s), -(-width // s)) for s in STRIDES)
    tokens = torch.randn(batch, sum(h * w for h, w in shapes), dim, requires_grad=True)
    size = torch.tensor([[float(height), float(width)]] * batch)
    return Memory(tokens, None, None, shapes, STRIDES, torch.ones(batch, len(shapes), 2), size)


def kept(part: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of all storages that autograd keeps while ``run``'s result lives."""
    own = {p.untyped_storage().data_ptr() for p in part.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(s.nbytes() for s in seen.values())


def repeated(decoder: StagedDecoder, q: Queries, mem: Memory, window: int = 2) -> list[object]:
    """Recollection with every set of a stage as an image of its own, the memory repeated for each."""
    B, T = q.content_BTC.shape[:2]
    outs, every = [[q]], []
    for layer in range(decoder.num_layers):
        entering = [x for older in outs[-window:] for x in older] if layer else outs[-1]
        n = len(entering)
        again = Memory(
            mem.tokens_BSC.repeat(n, 1, 1), None, None, mem.shapes, mem.strides, mem.valid_BL2.repeat(n, 1, 1),
            mem.image_hw_B2.repeat(n, 1),
        )  # fmt: skip
        stacked = Queries(
            torch.cat([x.content_BTC for x in entering]), torch.cat([x.ref_BT4 for x in entering]), q.slots, {}, {},
            {k: torch.cat([x.extra[k] for x in entering]) for k in q.extra},
        )  # fmt: skip
        logits, boxes, out = decoder.stage(layer, stacked, again)
        every.append((logits, boxes, out))
        outs.append(
            [
                Queries(
                    out.content_BTC[i * B : (i + 1) * B], out.ref_BT4[i * B : (i + 1) * B], out.slots, {}, {},
                    {k: v[i * B : (i + 1) * B] for k, v in out.extra.items()},
                )
                for i in range(n)
            ]
        )  # fmt: skip
    assert sum(len(x) for x in outs[1:]) == 32 and T == q.content_BTC.shape[1]
    return every


def recollection(config: str, batch: int, height: int, width: int) -> dict[str, int]:
    """Bytes of each form of the decoder."""
    cfg = load_config(config)
    cfg.model.num_classes = 80
    model = instantiate(cfg.model).train()
    mem = memory(batch, height, width)
    with torch.no_grad():
        q, _ = model.queries(mem)
    decoder, strategy = model.decoder, QueryRecollection()
    forms = {
        "recollection, memory repeated": lambda: repeated(decoder, q, mem),
        "recollection, one token axis": lambda: decoder(q, mem, [strategy]),
        "bare": lambda: decoder(q, mem),
    }
    return {name: kept(decoder, run) for name, run in forms.items()}


def set_encoder(batch: int, tokens: int) -> dict[str, int]:
    """Bytes of each form of TSP's encoder, its published size, in training."""
    found = {}
    forms = {"formula": ("math", False), "fused": ("sdpa", False), "fused, layers computed again": ("sdpa", True)}
    for name, (attention, again) in forms.items():
        encoder = SetEncoder(attention=attention, checkpoint=again).train()
        x, pos = (torch.randn(batch, tokens, encoder.dim) for _ in range(2))
        found[name] = kept(encoder, lambda encoder=encoder, x=x, pos=pos: encoder(x.requires_grad_(), pos))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", default="deformable_detr_r50_50ep", metavar="F")
    parser.add_argument("--tokens", type=int, metavar="N", help="TSP's set encoder over so many, not the decoder")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1333)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.tokens:
        what, found = f"set encoder, {args.tokens} tokens", set_encoder(args.batch, args.tokens)
    else:
        what = f"{args.config_file}, {args.height} x {args.width}"
        found = recollection(args.config_file, args.batch, args.height, args.width)
    print(f"{Path(__file__).name}: {what}, batch of {args.batch}, fp32\n")
    print("| form | MiB kept | of an image | ratio |\n|---|---:|---:|---:|")
    first = next(iter(found.values()))
    for name, count in found.items():
        print(f"| {name} | {count / 2**20:.0f} | {count / 2**20 / args.batch:.0f} | {count / first:.2f} |")


if __name__ == "__main__":
    main()
