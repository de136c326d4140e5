"""A model that is there already, evaluated on a data set as its training would have evaluated it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from ..config import build
from ..data import check_before_training
from ..data.limits import limits_of
from ..errors import UserError
from ..inference import for_evaluation
from .coco import CocoEvaluator
from .loop import inference_on_dataset

_OPTIONS = {"max_dets": int, "fast": bool, "stages": bool, "nms": float}  # of the evaluator, that change figures


def evaluate_on(
    model: nn.Module, cfg: DictConfig, json: str | Path, images: str | Path, names: Sequence[str] | None, source: str,
    trust: bool = False,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Metrics of a model on a COCO file, read by the config's own test loader.

    Args:
        model: in whatever mode, which it keeps.
        cfg: that the model is of; not changed.
        json: annotation file.
        images: folder of its images; "" = beside it.
        names: of the classes that the model predicts; None = unknown.
        source: what a message calls the model.
        trust: make whatever the config names.

    Raises:
        UserError: data that cannot be read, of other classes, or a config without a test loader.
    """
    options = _options(cfg)
    cfg = copy.deepcopy(cfg) if trust else for_evaluation(cfg, source)
    with open_dict(cfg):
        test = OmegaConf.select(cfg, "dataloader.test", throw_on_resolution_failure=False)
        if not isinstance(test, DictConfig) or not isinstance(test.get("dataset"), DictConfig):
            raise UserError(f"{source}: its config has no dataloader.test with a data set, so nothing says how to read")
        test.dataset.json, test.dataset.images = str(json), str(images)
    evaluator = CocoEvaluator(json, **options)
    check_classes(source, names, evaluator.class_names)
    if names is None and (count := getattr(model, "num_classes", None)) is not None:
        evaluator.truth.check_classes(count)
    loader = build(test, "dataloader.test", ("__iter__", "__len__"))
    if hasattr(getattr(loader, "dataset", None), "report"):
        check_before_training(loader.dataset, False, limits_of(cfg))
    return inference_on_dataset(model, loader, evaluator)


def check_classes(source: str, names: Sequence[str] | None, found: Sequence[str]) -> None:
    """Refuses validation data of other classes than a checkpoint knows.

    Raises:
        UserError: both lists.
    """
    if names is not None and list(names) != list(found):
        raise UserError(
            f"checkpoint {source} knows {len(names)} classes ({', '.join(map(str, names[:8]))}), the validation data "
            f"has {len(found)} ({', '.join(found[:8])})\n  evaluate on data with the checkpoint's classes"
        )


def _options(cfg: DictConfig) -> dict[str, Any]:
    found = {}
    for key, kind in _OPTIONS.items():
        value = OmegaConf.select(cfg, f"dataloader.evaluator.{key}", throw_on_resolution_failure=False)
        if isinstance(value, int | float) and isinstance(value, bool) == (kind is bool):
            found[key] = value
    return found
