"""The host names from an installed detectron2.

`LRMultiplier` and `WarmupParamScheduler` are subclasses that mend detectron2's faults; the rest is
re-exported as it is.
"""

from __future__ import annotations

from detectron2.config import LazyCall, instantiate
from detectron2.config import LazyConfig as LazyConfigBase
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.engine.defaults import create_ddp_model as _create_ddp_model
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.layers import ShapeSpec
from detectron2.solver import LRMultiplier as _LRMultiplier
from detectron2.solver import WarmupParamScheduler as _WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
from detectron2.utils.file_io import PathManager
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from detrex_ext.runtime.standalone import comm as _comm
from detrex_ext.runtime.standalone import solver as _solver

__all__ = [
    "Boxes", "BoxMode", "DatasetCatalog", "EventStorage", "HookBase", "Instances", "LRMultiplier", "LazyCall",
    "LazyConfigBase", "Metadata", "MetadataCatalog", "PathManager", "ShapeSpec", "TrainerBase", "WarmupParamScheduler",
    "comm", "create_ddp_model", "get_default_optimizer_params", "get_event_storage", "has_event_storage", "instantiate",
]  # fmt: skip


class LRMultiplier(_solver.ClampedLR, _LRMultiplier):
    """detectron2's, which survives the step after the last iteration."""


class WarmupParamScheduler(_WarmupParamScheduler):
    """detectron2's, which takes a warm-up longer than the training."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        length = _solver.clamp_warmup(warmup_length)
        super().__init__(scheduler, warmup_factor, length, warmup_method, rescale_interval)


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, bf16_compression: bool = False, **kwargs
) -> nn.Module:
    """detectron2's, without device ids on the CPU, where torch refuses them; ours for what it has not."""
    if bf16_compression:
        both = {"fp16_compression": fp16_compression, "bf16_compression": True}
        return _comm.create_ddp_model(model, **both, **kwargs)
    if "device_ids" not in kwargs and next(model.parameters()).device.type == "cpu":
        kwargs["device_ids"] = None
    return _create_ddp_model(model, fp16_compression=fp16_compression, **_comm.ddp_arguments(kwargs))
