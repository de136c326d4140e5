"""The official Co-DETR on a CPU, from a checkout of it: ``DETREX_EXT_CO_DETR=/path/to/it``.

It is a fork of mmdetection 2.25 with a folder ``projects``. mmcv, which has compiled operators, is stood in for by few
lines; packages are empty, so that what is compared is imported from its own files and nothing else is.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import RoIAlign, batched_nms

from .peer_adamixer import _BaseModule, _same

VARIABLE = "DETREX_EXT_CO_DETR"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
PACKAGES = (
    "mmdet", "mmdet.core", "mmdet.core.anchor", "mmdet.core.bbox", "mmdet.core.bbox.assigners", "mmdet.core.utils",
    "mmdet.core.bbox.samplers", "mmdet.core.bbox.coder", "mmdet.core.bbox.iou_calculators", "mmdet.core.mask",
    "mmdet.models", "mmdet.models.losses", "mmdet.models.dense_heads", "mmdet.models.utils", "mmdet.utils",
    "mmdet.models.roi_heads", "mmdet.models.roi_heads.bbox_heads", "mmdet.models.roi_heads.roi_extractors",
    "projects", "projects.models",
)  # fmt: skip


def skip_without_checkout() -> None:
    """Skip the calling module, with the reason, where there is no checkout."""
    if ROOT is None or not (ROOT / "projects/models/co_atss_head.py").is_file():
        pytest.skip(f"comparison with Co-DETR needs {VARIABLE} to name a checkout of it", allow_module_level=True)


class Config(dict):
    """A dict whose keys are attributes, as mmcv's."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


def config(**items: Any) -> Config:
    """A config, all the way down."""
    return Config({k: config(**v) if isinstance(v, dict) else v for k, v in items.items()})


class _Registry(dict):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def register_module(self, *_: Any, **__: Any) -> Callable[[type], type]:
        return lambda cls: self.setdefault(cls.__name__, cls)

    def build(self, cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
        options = {**(default_args or {}), **cfg}
        return self[options.pop("type")](**options)


class _ConvModule(nn.Module):
    """mmcv 1.5: no bias where a norm follows; ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, norm_cfg: Any = None, **options: Any) -> None:
        super().__init__()
        size = {k: options[k] for k in ("stride", "padding") if k in options}
        self.conv = nn.Conv2d(channels, out, kernel, bias=norm_cfg is None, **size)
        self.gn = nn.GroupNorm(norm_cfg["num_groups"], out) if norm_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.gn(self.conv(x)).relu()


class _Scale(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _RoIAlign(RoIAlign):
    """mmcv 1.5, whose regions begin half a pixel earlier."""

    def __init__(self, output_size: int, sampling_ratio: int, spatial_scale: float) -> None:
        super().__init__((output_size, output_size), spatial_scale, sampling_ratio, aligned=True)


def _nms(boxes: Tensor, scores: Tensor, levels: Tensor, cfg: dict[str, Any]) -> tuple[Tensor, Tensor]:
    keep = batched_nms(boxes, scores, levels, cfg["iou_threshold"])
    return torch.cat([boxes, scores[:, None]], 1)[keep], keep


def _linear(cfg: Any, *args: Any, **named: Any) -> nn.Module:
    return nn.Linear(*args, **named)


MMCV: dict[str, dict[str, Any]] = {
    "mmcv": {"jit": _same, "ops": None},
    "mmcv.utils": {"Registry": _Registry, "to_2tuple": lambda x: (x, x),
                   "build_from_cfg": lambda cfg, registry, default_args=None: registry.build(cfg, default_args)},
    "mmcv.runner": {"BaseModule": _BaseModule, "ModuleList": nn.ModuleList, "force_fp32": _same, "auto_fp16": _same,
                    "OptimizerHook": object, "get_dist_info": None},
    "mmcv.runner.base_module": {"BaseModule": _BaseModule},
    "mmcv.ops": {"sigmoid_focal_loss": None, "batched_nms": _nms, "RoIAlign": _RoIAlign},
    "mmcv.ops.multi_scale_deform_attn": {"MultiScaleDeformableAttention": None},
    "mmcv.cnn": {"MODELS": None, "ConvModule": _ConvModule, "Scale": _Scale, "Linear": nn.Linear, "Conv2d": nn.Conv2d,
                 "bias_init_with_prob": lambda p: -math.log((1 - p) / p), "constant_init": None, "xavier_init": None,
                 "build_activation_layer": None, "build_conv_layer": None, "build_norm_layer": None},
    "mmcv.cnn.utils": {},
    "mmcv.cnn.utils.weight_init": {"constant_init": None},
    "mmcv.cnn.bricks": {},
    "mmcv.cnn.bricks.registry": {"TRANSFORMER_LAYER": _Registry(), "TRANSFORMER_LAYER_SEQUENCE": _Registry()},
    "mmcv.cnn.bricks.transformer": {"FFN": None, "BaseTransformerLayer": nn.Module, "build_positional_encoding": None,
                                    "TransformerLayerSequence": nn.Module, "build_transformer_layer_sequence": None},
    "fairscale": {}, "fairscale.nn": {}, "fairscale.nn.checkpoint": {"checkpoint_wrapper": None},
    "six": {}, "six.moves": {"map": map, "zip": zip},
}  # fmt: skip
# what its packages export, as far as it is asked for: by package, names and the modules that have them
EXPORTS: Sequence[tuple[str, str, Sequence[str]]] = (
    ("mmdet.utils", "mmdet.utils.util_mixins", ()),
    ("mmdet.core", "mmdet.core.utils.misc", ("multi_apply", "unmap", "filter_scores_and_topk", "select_single_mlvl")),
    ("mmdet.core.utils", "mmdet.core.utils.misc", ("filter_scores_and_topk", "select_single_mlvl")),
    ("mmdet.core", "mmdet.core.utils.dist_utils", ("reduce_mean",)),
    ("mmdet.core", "mmdet.core.bbox.builder", ("build_assigner", "build_sampler", "build_bbox_coder")),
    ("mmdet.core.bbox.iou_calculators", "mmdet.core.bbox.iou_calculators.builder", ("build_iou_calculator",)),
    ("mmdet.core", "mmdet.core.bbox.iou_calculators.iou2d_calculator", ("bbox_overlaps",)),
    ("mmdet.core", "mmdet.core.bbox.transforms",
     ("bbox_cxcywh_to_xyxy", "bbox_xyxy_to_cxcywh", "bbox_mapping_back", "bbox2roi", "bbox2result")),
    ("mmdet.core", "mmdet.core.anchor.builder", ("build_prior_generator",)),
    ("mmdet.core", "mmdet.core.anchor.utils", ("anchor_inside_flags", "images_to_levels")),
    ("", "mmdet.core.anchor.anchor_generator", ()),
    ("", "mmdet.core.bbox.assigners.atss_assigner", ()),
    ("", "mmdet.core.bbox.samplers.pseudo_sampler", ()),
    ("", "mmdet.core.bbox.coder.delta_xywh_bbox_coder", ()),
    ("mmdet.models.losses", "mmdet.models.losses.accuracy", ("accuracy",)),
    *(("", f"mmdet.models.losses.{name}", ()) for name in (
        "focal_loss", "gfocal_loss", "cross_entropy_loss", "smooth_l1_loss", "iou_loss")),
)  # fmt: skip


@contextmanager
def modules_of_checkout() -> Iterator[Callable[[str], Any]]:
    """``load(name)`` imports a module of the checkout, while this is held; nothing stays in ``sys.modules``."""
    own = ("mmcv", "mmdet", "projects", "fairscale", "six")
    kept = {k: v for k, v in sys.modules.items() if k.split(".")[0] not in own}
    with mock.patch.dict(sys.modules, kept, clear=True):
        for name, content in {**MMCV, **dict.fromkeys(PACKAGES, {})}.items():
            module = sys.modules[name] = types.ModuleType(name)
            module.__path__ = [str(ROOT / name.replace(".", "/"))] if name in PACKAGES else []
            vars(module).update(content)
        sys.modules["mmcv"].ops = sys.modules["mmcv.ops"]
        for name, content in {
            "mmdet.core": {"merge_aug_proposals": None, "multiclass_nms": None},
            "mmdet.core.mask.structures": {"BitmapMasks": None, "PolygonMasks": None},
            "mmdet.models.utils": {"build_transformer": None, "build_linear_layer": _linear},
            "mmdet.utils.contextmanagers": {"completed": None},
        }.items():
            module = sys.modules.setdefault(name, types.ModuleType(name))
            vars(module).update(content)
        for package, name, names in EXPORTS:
            module = importlib.import_module(name)
            if package:
                vars(sys.modules[package]).update({n: getattr(module, n) for n in names})
        sys.modules["mmdet.utils"].util_mixins = sys.modules["mmdet.utils.util_mixins"]
        yield importlib.import_module
