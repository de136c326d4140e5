#!/usr/bin/env python
"""A training step of detrex's DINO R50 on a GPU, timed as the step `training` of `doctor --gpu` times ours.

    python benchmarks/gpu_beside_detrex.py --out detrex.json

It needs detectron2, detrex and detrex's compiled operator. The optimizer and the clipped norm are those of detrex's
config; its operator knows no bf16, so that mixed precision there is fp16 with a scaled loss.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from beside_detrex import model
from torch import nn

from detrex_ext.benchmark.measure import Options, Work
from detrex_ext.gpu_check import timing
from detrex_ext.testing import example_batch

HOST, CLASSES, SIZE, OBJECTS = "DINO R50", 80, (800, 1333), (7, 12)
ROWS = ((2, "fp32"), (2, "fp16"), (8, "fp16"))
SECONDS = 1.5


def step(net: nn.Module, batch: int, dtype: str, device: str) -> Work:
    """Forward, losses, backward, clipping, optimizer."""
    items = example_batch(CLASSES, (OBJECTS * batch)[:batch], SIZE)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=dtype == "fp16")

    def work() -> None:
        with torch.autocast(device, torch.float16, enabled=dtype == "fp16"):
            total = sum(net(items).values())
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()

    return work


def main() -> int:
    """Every row, written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    rows = {}
    for batch, dtype in ROWS:
        net = model(HOST, (), Options(device=args.device)).train()
        work = step(net, batch, dtype, args.device)
        torch.cuda.reset_peak_memory_stats()
        seconds = timing.seconds_of(work, args.device, SECONDS)
        peak = torch.cuda.max_memory_allocated() / 2**30
        kernels, busy = timing.kernels_of(work)
        rows[f"batch of {batch}, {dtype}"] = {
            "ms": 1e3 * seconds, "gpu_ms": 1e3 * busy, "kernels": kernels, "peak_gib": peak,
        }  # fmt: skip
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(batch, dtype, rows[f"batch of {batch}, {dtype}"], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
