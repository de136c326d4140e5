"""Declared options of how a model lies over processes and what it keeps for the backward pass."""

from __future__ import annotations

from .options_types import Option

PROCESSES: dict[str, Option] = {
    "train.ddp.broadcast_buffers": Option(bool, meaning="statistics of norms follow rank 0 in every step"),
    "train.ddp.find_unused_parameters": Option(bool, meaning="needed where a step leaves parameters out"),
    "train.ddp.bucket_cap_mb": Option(
        int | None,
        least=1,
        most=10**5,
        unit="MB",
        meaning="gradients that travel together while others are computed; null = as torch has it, 25",
    ),
    "train.ddp.fp16_compression": Option(bool, meaning="gradients travel between processes as fp16"),
    "train.ddp.bf16_compression": Option(
        bool, meaning="gradients travel between processes as bf16, which has the range of fp32"
    ),
    "train.fsdp": Option(
        bool,
        meaning="with several processes each holds a part of all weights, gradients and moments (FSDP2, torch 2.6 or "
        "newer), in place of DDP",
    ),
    "train.activation_checkpointing": Option(
        str | None,
        choices=("backbone", "encoder", "decoder", "all"),
        meaning="part whose layers are computed again in the backward pass, not kept: the same numbers, less memory, "
        "more time; all = those that can; null = none",
    ),
}
