"""Work of the suites `step` and `inference`: whole models on random images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from detrex_ext.config import load_config
from detrex_ext.runtime import Boxes, Instances, instantiate

from .measure import Options, Work

HOSTS = {
    "DETR R50": "detr_r50_300ep",
    "DAB-DETR R50": "dab_detr_r50_50ep",
    "Deformable-DETR R50": "deformable_detr_r50_50ep",
    "DINO R50": "dino_r50_4scale_12ep",
    "AdaMixer R50": "adamixer_r50_12ep",
}
CLASSES = 80  # of a config that leaves them to the data


def batch(side: int, size: int = 2, classes: int = CLASSES) -> list[dict[str, Any]]:
    """Square images of ``side`` pixels in detectron2's layout, with 2 and 5 objects in turn."""
    make = torch.Generator().manual_seed(0)
    items = []
    for i in range(size):
        count = (2, 5)[i % 2]
        center = 0.2 + 0.6 * torch.rand(count, 2, generator=make)
        half = 0.05 + 0.15 * torch.rand(count, 2, generator=make)
        instances = Instances((side, side))
        instances.gt_boxes = Boxes(torch.cat([center - half, center + half], 1) * side)
        instances.gt_classes = torch.randint(classes, (count,), generator=make)
        image = torch.randint(256, (3, side, side), generator=make).to(torch.uint8)
        items.append({"image": image, "instances": instances, "height": side, "width": side, "image_id": i})
    return items


def model(host: str, strategies: Sequence[str], options: Options) -> nn.Module:
    """The model of a host or config with random weights, under these overlays; dropout as the config says."""
    torch.manual_seed(0)
    cfg = load_config(HOSTS.get(host, host), (*options.overlays, *strategies), options.overrides)
    cfg.model.num_classes = cfg.model.num_classes or CLASSES
    return instantiate(cfg.model).to(options.device)


def training(net: nn.Module, side: int, options: Options, dtype: str, classes: int = CLASSES) -> Work:
    """Forward, loss and backward in training mode, in ``fp32`` or under autocast to ``bf16``."""
    net, items = net.train(), batch(side, options.batch, classes)

    def run() -> None:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=dtype == "bf16"):
            losses = net(items)
        sum(losses.values()).backward()
        # at the end, so that the models that wait for their turn hold their weights and no more
        net.zero_grad(set_to_none=True)

    return run


def prediction(net: nn.Module, side: int, options: Options, dtype: str) -> Work:
    """Prediction with post-processing; a call gives the detections of each image."""
    net, items = net.eval().requires_grad_(False), batch(side, options.batch)

    @torch.no_grad()
    def run() -> list[Any]:
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=dtype == "bf16"):
            return [x["instances"] for x in net(items)]

    return run


def step(host: str, strategies: Sequence[str], side: int, options: Options, dtype: str = "fp32") -> Work:
    """:func:`training` of a host or config under these strategies."""
    net = model(host, strategies, options)
    return training(net, side, options, dtype, net.num_classes)


def predict(host: str, strategies: Sequence[str], side: int, options: Options, dtype: str = "fp32") -> Work:
    """:func:`prediction` of a host or config under these strategies."""
    return prediction(model(host, strategies, options), side, options, dtype)


def count_sets(host: str, strategies: Sequence[str], options: Options) -> int:
    """Sets that the model supervises in a step."""
    net = model(host, strategies, options).train()
    with torch.no_grad():
        return len(net.forward_sets(batch(64, classes=net.num_classes)))
