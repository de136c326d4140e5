"""The one door to detrex, and to what of detectron2 is measured beside ours: used where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable


def detrex_msda_op() -> Callable | None:
    """The multi-scale deformable attention of detrex with its compiled kernel, or None.

    Returns:
        `MultiScaleDeformableAttnFunction.apply(value_BSHC, shapes_L2, starts_L, locations_BQHLP2, weights_BQHLP,
        im2col_step) -> (B, Q, H * C)`.
    """
    if importlib.util.find_spec("detrex") is None:
        return None
    try:
        importlib.import_module("detrex._C")
        return importlib.import_module("detrex.layers.multi_scale_deform_attn").MultiScaleDeformableAttnFunction.apply
    except (ImportError, AttributeError):
        return None


def detectron2_loader(json: str, images: str, batch: int, workers: int) -> Iterable | None:
    """detectron2's loader of a COCO file, without end, short sides of 480 and flips; None without detectron2."""
    if importlib.util.find_spec("detectron2") is None:
        return None
    data, sets = (importlib.import_module(f"detectron2.data{name}") for name in ("", ".datasets"))
    steps = [data.transforms.ResizeShortestEdge(480, 800), data.transforms.RandomFlip()]
    mapper = data.DatasetMapper(is_train=True, augmentations=steps, image_format="RGB")
    records = sets.load_coco_json(json, images)
    return data.build_detection_train_loader(records, mapper=mapper, total_batch_size=batch, num_workers=workers)
