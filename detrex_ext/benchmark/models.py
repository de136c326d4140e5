"""Work of the suites `step` and `inference`: whole models on random pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from detrex_ext.config import load_config
from detrex_ext.runtime import Boxes, Instances, instantiate, peers

from .measure import Work

CONFIG = "deformable_detr_r50_50ep"
CLASSES = 80


def batch(side: int, objects: Sequence[int] = (2, 5)) -> list[dict[str, Any]]:
    """Two square pictures in detectron2's layout, with some objects each."""
    make = torch.Generator().manual_seed(0)
    items = []
    for i, count in enumerate(objects):
        centre = 0.2 + 0.6 * torch.rand(count, 2, generator=make)
        half = 0.05 + 0.15 * torch.rand(count, 2, generator=make)
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.cat([centre - half, centre + half], 1) * side)
        instances.gt_classes = torch.randint(CLASSES, (count,), generator=make)
        image = torch.randint(256, (3, side, side), generator=make).to(torch.uint8)
        items.append({"image": image, "instances": instances, "height": side, "width": side, "image_id": i})
    return items


def model(strategies: Sequence[str] | None, device: str, channels_last: bool = False) -> nn.Module:
    """Ours with these overlays; detrex's for None. Random weights, dropout as published."""
    torch.manual_seed(0)
    if strategies is None:
        return peers.detrex_deformable(CLASSES, device)
    cfg = load_config(CONFIG, tuple(strategies))
    cfg.model.num_classes = CLASSES
    if channels_last:
        cfg.model.preprocess.channels_last = True
    built = instantiate(cfg.model).to(device)
    return built.to(memory_format=torch.channels_last) if channels_last else built


def step(
    strategies: Sequence[str] | None, side: int, device: str, dtype: str = "fp32", channels_last: bool = False
) -> Work:
    """Forward, loss and backward in training mode."""
    net, items = model(strategies, device, channels_last).train(), batch(side)

    def run() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16"):
            losses = net(items)
        sum(losses.values()).backward()
        # at the end, so that the models that wait for their turn hold their weights and no more
        net.zero_grad(set_to_none=True)

    return run


def predict(
    strategies: Sequence[str] | None, side: int, device: str, dtype: str = "fp32", channels_last: bool = False
) -> Work:
    """Prediction with post-processing."""
    net, items = model(strategies, device, channels_last).eval(), batch(side)

    @torch.no_grad()
    def run() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16"):
            net(items)

    return run


def count_sets(strategies: Sequence[str]) -> int:
    """Sets that the model supervises in a step."""
    net = model(strategies, "cpu").train()
    with torch.no_grad():
        return len(net.forward_sets(batch(64)))
