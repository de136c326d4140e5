"""Work of the suites `step` and `inference`: whole models on random pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from detrex_ext.checkpoint.load import load_state
from detrex_ext.config import load_config
from detrex_ext.runtime import Boxes, Instances, instantiate, peers

from .measure import Options, Work

# each of our configs, and detrex's model file that describes the same model
HOSTS = {
    "DETR R50": ("detr_r50_300ep", "detr/configs/models/detr_r50.py"),
    "DAB-DETR R50": ("dab_detr_r50_50ep", "dab_detr/configs/models/dab_detr_r50.py"),
    "Deformable-DETR R50": ("deformable_detr_r50_50ep", "deformable_detr/configs/models/deformable_detr_r50.py"),
    "DINO R50": ("dino_r50_4scale_12ep", "dino/configs/models/dino_r50.py"),
    "AdaMixer R50": ("adamixer_r50_12ep", None),
}
# and with a strategy
WITH_STRATEGY = {("DAB-DETR R50", ("sqr",)): "sqr_detr/configs/models/dab_detr_r50_sqr.py"}
CLASSES = 80


def batch(side: int, size: int = 2) -> list[dict[str, Any]]:
    """Square pictures in detectron2's layout, with 2 and 5 objects in turn."""
    make = torch.Generator().manual_seed(0)
    items = []
    for i in range(size):
        count = (2, 5)[i % 2]
        centre = 0.2 + 0.6 * torch.rand(count, 2, generator=make)
        half = 0.05 + 0.15 * torch.rand(count, 2, generator=make)
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.cat([centre - half, centre + half], 1) * side)
        instances.gt_classes = torch.randint(CLASSES, (count,), generator=make)
        image = torch.randint(256, (3, side, side), generator=make).to(torch.uint8)
        items.append({"image": image, "instances": instances, "height": side, "width": side, "image_id": i})
    return items


def peer_of(host: str, strategies: Sequence[str]) -> str | None:
    """detrex's model file for a host under these strategies, or None."""
    return WITH_STRATEGY.get((host, tuple(strategies))) if strategies else HOSTS[host][1]


def model(host: str, strategies: Sequence[str], options: Options, by_detrex: bool = False) -> nn.Module:
    """Ours with these overlays, or detrex's. The same random weights in both, dropout as published."""
    torch.manual_seed(0)
    if by_detrex:
        return peers.detrex_model(peer_of(host, strategies), CLASSES, options.device)
    cfg = load_config(HOSTS[host][0], tuple(strategies), options.overrides)
    cfg.model.num_classes = CLASSES
    return instantiate(cfg.model).to(options.device)


def step(
    host: str, strategies: Sequence[str], side: int, options: Options, dtype: str = "fp32", by_detrex: bool = False
) -> Work:
    """Forward, loss and backward in training mode."""
    net, items = model(host, strategies, options, by_detrex).train(), batch(side, options.batch)

    def run() -> None:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=dtype == "bf16"):
            losses = net(items)
        sum(losses.values()).backward()
        # at the end, so that the models that wait for their turn hold their weights and no more
        net.zero_grad(set_to_none=True)

    return run


def predict(
    host: str, strategies: Sequence[str], side: int, options: Options, dtype: str = "fp32", by_detrex: bool = False
) -> Work:
    """Prediction with post-processing."""
    return _prediction(model(host, strategies, options, by_detrex), side, options, dtype)


def _prediction(net: nn.Module, side: int, options: Options, dtype: str) -> Work:
    net, items = net.eval().requires_grad_(False), batch(side, options.batch)

    @torch.no_grad()
    def run() -> list[Any]:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=dtype == "bf16"):
            return [x["instances"] for x in net(items)]

    return run


def agreement_with_detrex(host: str, side: int, options: Options, dtype: str) -> tuple[float, float, float]:
    """:func:`agreement` of detrex's model and ours with its weights, moved away from their degenerate start."""
    theirs, ours = (model(host, (), options, by_detrex) for by_detrex in (True, False))
    make = torch.Generator(options.device).manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.dim() == 1 or p.shape[0] in (4, CLASSES):
                p.add_(0.1 * torch.randn(p.shape, generator=make, device=p.device))
    load_state(ours, theirs.state_dict(), name="detrex's model")
    ours.preprocess.parity_padding = True
    return agreement(*(_prediction(net, side, options, d)() for net, d in ((theirs, "fp32"), (ours, dtype))))


def agreement(
    expected: Sequence[Instances], found: Sequence[Instances], best: int = 100
) -> tuple[float, float, float]:
    """How far the ``best`` detections of each picture are from the nearest of their class in another answer.

    Nearest, so that a swap of two equal scores is no difference.

    Returns:
        Largest difference in score; median and largest difference in a box coordinate, in pixels.
    """
    scores, boxes = [], []
    for a, b in zip(expected, found, strict=True):
        a = a[:best]
        apart = (a.pred_boxes.tensor[:, None] - b.pred_boxes.tensor[None]).abs().amax(-1)
        apart = apart.masked_fill(a.pred_classes[:, None] != b.pred_classes[None], float("inf"))
        distance, index = apart.min(1)
        boxes.append(distance)
        scores.append((a.scores - b.scores[index]).abs())
    box = torch.cat(boxes)
    return float(torch.cat(scores).max()), float(box.median()), float(box.max())


def count_sets(host: str, strategies: Sequence[str]) -> int:
    """Sets that the model supervises in a step."""
    net = model(host, strategies, Options()).train()
    with torch.no_grad():
        return len(net.forward_sets(batch(64)))
