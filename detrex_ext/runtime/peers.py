"""The one door to detrex: what of it is used where it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEFORMABLE = "projects.deformable_detr.modeling"


def detrex_installed() -> bool:
    """Whether a detrex is there at all; it may still lack its compiled operators."""
    return importlib.util.find_spec("detrex") is not None


def detrex_msda_op() -> Callable | None:
    """detrex's multi-scale deformable attention with its compiled kernel, or None.

    Returns:
        `MultiScaleDeformableAttnFunction.apply(value_BSHC, shapes_L2, starts_L, locations_BQHLP2, weights_BQHLP,
        im2col_step) -> (B, Q, H * C)`.
    """
    if not detrex_installed():
        return None
    try:
        importlib.import_module("detrex._C")
        return importlib.import_module("detrex.layers.multi_scale_deform_attn").MultiScaleDeformableAttnFunction.apply
    except (ImportError, AttributeError):
        return None


@functools.cache
def why_no_detrex() -> str | None:
    """Why detrex's Deformable-DETR cannot be built here; None where it can.

    detrex only builds its sampling layer where ``detrex._C`` imports; an empty module of that name is enough on a CPU.
    """
    for name in ("detectron2", "detrex", "detrex._C", _DEFORMABLE):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name}: {error}"
    return None


def detrex_importable() -> bool:
    """Whether detrex's Deformable-DETR can be built here."""
    return why_no_detrex() is None


def detrex_model(config: str, num_classes: int = 80, device: str = "cpu") -> Any:
    """A model of detrex with random weights.

    Args:
        config: its model file below detrex's ``projects``, such as ``dino/configs/models/dino_r50.py``.
        num_classes: classes of its heads and its criterion.
        device: where.

    Raises:
        ImportError: detrex is not importable.
    """
    cfg = _config(config).model
    cfg.device = device
    cfg.num_classes = cfg.criterion.num_classes = num_classes
    return importlib.import_module("detectron2.config").instantiate(cfg).to(device)


def detrex_criterion(num_sets: int, num_classes: int = 80) -> Callable:
    """Its criterion for so many sets: ``({"pred_logits", "pred_boxes", "aux_outputs"}, targets) -> weighted losses``.

    Raises:
        ImportError: detrex is not importable.
    """
    cfg = _config("deformable_detr/configs/models/deformable_detr_r50.py").model.criterion
    cfg.num_classes = num_classes
    criterion = importlib.import_module("detectron2.config").instantiate(cfg)
    weights = {name: w for name, w in criterion.weight_dict.items() if name.count("_") == 1}

    def weighted(outputs: dict, targets: list) -> dict:
        losses = criterion(outputs, targets)
        return {k: v * weights[stem] for k, v in losses.items() for stem in weights if k.startswith(stem)}

    return weighted


def detrex_sampling() -> Callable | None:
    """detrex's deformable sampling in plain torch, ``(value_BSHD, shapes_L2, at_BTHLK2, weight_BTHLK)``, or None."""
    if not detrex_importable():
        return None
    return importlib.import_module("detrex.layers.multi_scale_deform_attn").multi_scale_deformable_attn_pytorch


def _config(file: str) -> Any:
    if why_no_detrex():
        raise ImportError(f"detrex's models need {why_no_detrex()}")
    projects = Path(importlib.import_module(_DEFORMABLE).__file__).parents[2]
    return importlib.import_module("detectron2.config").LazyConfig.load(str(projects / file))
