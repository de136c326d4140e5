"""The hosts that are checked, small or as published, and what runs on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from detrex_ext.benchmark.models import CLASSES, HOSTS
from detrex_ext.config import load_config
from detrex_ext.modeling.detector import Detector
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch

# what each is trained with; a host of one stage has no decoder that a strategy could lie over
FAMILIES = {**HOSTS, "Deformable-DETR++ R50": "deformable_detr_plus_r50_12ep"}
ONE_STAGE = {
    "TSP-FCOS R50": "tsp_fcos_r50_3x", "TSP-RCNN R50": "tsp_rcnn_r50_3x", "encoder only": "encoder_only_detr_r50",
}  # fmt: skip
STRATEGIES = ("sqr", "dac", "hybrid")
# wide enough for the sizes of heads that kernels are made for, and still built in no time
_SMALL = {False: ("tiny", {"dim": 256, "num_queries": 100}), True: ("tiny", {"dim": 64, "num_queries": 20})}
SIZE = (256, 320)  # height and width


def built(
    host: str, overlays: Sequence[Any] = (), small: bool = True, quick: bool = False
) -> tuple[DictConfig, Detector]:
    """Config and model, on the CPU with random weights, as published or small, or even smaller."""
    torch.manual_seed(0)
    config = {**FAMILIES, **ONE_STAGE}.get(host, host)
    cfg = load_config(config, (*((_SMALL[quick],) if small or quick else ()), *overlays))
    cfg.model.num_classes = cfg.model.num_classes or CLASSES
    return cfg, instantiate(cfg.model).train()


def images(net: Detector, objects: tuple[int, ...] = (5, 2), size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """A batch of noise with objects."""
    return example_batch(net.num_classes, objects, size)


@contextlib.contextmanager
def in_full_fp32() -> Iterator[None]:
    """Products and convolutions in fp32 are none of TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
