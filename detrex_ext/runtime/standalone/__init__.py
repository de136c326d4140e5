"""The host names on torch, fvcore, iopath, omegaconf and hydra-core alone: detectron2's signatures and formats."""

from __future__ import annotations

from detrex_ext.runtime.standalone import comm
from detrex_ext.runtime.standalone.box_mode import BoxMode
from detrex_ext.runtime.standalone.boxes import Boxes
from detrex_ext.runtime.standalone.calls import LazyCall, instantiate
from detrex_ext.runtime.standalone.catalog import DatasetCatalog, Metadata, MetadataCatalog
from detrex_ext.runtime.standalone.comm import create_ddp_model
from detrex_ext.runtime.standalone.events import EventStorage, get_event_storage, has_event_storage
from detrex_ext.runtime.standalone.files import PathManager
from detrex_ext.runtime.standalone.instances import Instances, ShapeSpec
from detrex_ext.runtime.standalone.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from detrex_ext.runtime.standalone.train_loop import HookBase, TrainerBase

LazyConfigBase = object
"""What detectron2's LazyConfig is to ours where there is none."""

__all__ = [
    "Boxes", "BoxMode", "DatasetCatalog", "EventStorage", "HookBase", "Instances", "LRMultiplier", "LazyCall",
    "LazyConfigBase", "Metadata", "MetadataCatalog", "PathManager", "ShapeSpec", "TrainerBase", "WarmupParamScheduler",
    "comm", "create_ddp_model", "get_default_optimizer_params", "get_event_storage", "has_event_storage", "instantiate",
]  # fmt: skip
