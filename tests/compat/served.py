"""Which names of detectron2 the standalone runtime has, and in which modules detectron2 has them."""

from __future__ import annotations

import importlib
from typing import Any

WHOLE = {"detectron2.utils.comm": "detrex_ext.runtime.standalone.comm"}
"""Modules with a state that is set from outside: the module itself is served."""

SEAM = {
    "detectron2.config.lazy": ("LazyCall", "LazyConfig"),
    "detectron2.config.instantiate": ("instantiate",),
    "detectron2.data.catalog": ("DatasetCatalog", "Metadata", "MetadataCatalog"),
    "detectron2.engine.defaults": (
        "create_ddp_model", "default_argument_parser", "default_setup", "default_writers",
    ),
    "detectron2.engine.hooks": ("EvalHook", "IterationTimer", "LRScheduler", "PeriodicWriter"),
    "detectron2.engine.launch": ("launch",),
    "detectron2.engine.train_loop": ("HookBase", "TrainerBase"),
    "detectron2.layers.shape_spec": ("ShapeSpec",),
    "detectron2.solver.build": ("get_default_optimizer_params",),
    "detectron2.solver.lr_scheduler": ("LRMultiplier", "WarmupParamScheduler"),
    "detectron2.structures.boxes": ("Boxes", "BoxMode"),
    "detectron2.structures.instances": ("Instances",),
    "detectron2.utils.collect_env": ("collect_env_info",),
    "detectron2.utils.env": ("seed_all_rng",),
    "detectron2.utils.events": (
        "CommonMetricPrinter", "EventStorage", "EventWriter", "JSONWriter", "TensorboardXWriter", "get_event_storage",
        "has_event_storage",
    ),
    "detectron2.utils.file_io": ("PathManager",),
    "detectron2.utils.logger": ("setup_logger",),
}  # fmt: skip
"""Names of `detrex_ext.runtime`."""

BESIDE = {
    "detectron2.solver.build": {
        "reduce_param_groups": "detrex_ext.runtime.standalone.groups.reduce_param_groups",
        "_expand_param_groups": "detrex_ext.runtime.standalone.groups.expand_param_groups",
    },
    "detectron2.structures.boxes": {
        "matched_pairwise_iou": "detrex_ext.runtime.standalone.boxes.matched_pairwise_iou",
        "pairwise_intersection": "detrex_ext.runtime.standalone.boxes.pairwise_intersection",
        "pairwise_ioa": "detrex_ext.runtime.standalone.boxes.pairwise_ioa",
        "pairwise_iou": "detrex_ext.runtime.standalone.boxes.pairwise_iou",
    },
    "detectron2.utils.registry": {
        "_convert_target_to_string": "detrex_ext.runtime.standalone.calls.to_name",
        "locate": "detrex_ext.runtime.standalone.calls.locate",
    },
    "detectron2.utils.testing": {
        "reload_lazy_config": "reloaded.lazy_config",
        "reload_script_model": "reloaded.script_model",
    },
}
"""Names of the modules beside it, by the place where they are."""


def served() -> dict[str, dict[str, Any]]:
    """Module of detectron2 -> name -> our object."""
    runtime = importlib.import_module("detrex_ext.runtime")
    names = {module: {name: getattr(runtime, name) for name in own} for module, own in SEAM.items()}
    for module, own in BESIDE.items():
        for name, place in own.items():
            holder, _, attribute = place.rpartition(".")
            names.setdefault(module, {})[name] = getattr(importlib.import_module(holder), attribute)
    return names
