"""Three lines for a user: load a run, predict on an image or evaluate, read boxes."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .checkpoint import classes_of, find_weights, load_state, names_weights, read_checkpoint
from .checkpoint.threshold import threshold_of
from .config import find_config, load_config
from .data import read_classes
from .errors import UserError
from .inference import build_for_inference, config_in, test_transforms
from .predictor import Predictor
from .runtime.devices import usable_device
from .trust import check_trusted

logger = logging.getLogger(__name__)


def load(
    source: str | os.PathLike | DictConfig,
    *,
    weights: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    average: bool | None = None,
    averaged: bool | None = None,
    trust: bool = False,
) -> Predictor:
    """A predictor from what training left behind.

    Args:
        source: a run folder (its newest checkpoint), a checkpoint, or a config (file, short name, or loaded).
        weights: checkpoint, or a run folder's, to take instead of the one ``source`` leads to; the config stays.
        device: default: the GPU if there is one.
        average: True = averaged (EMA) weights, False = the trained ones, None = those that the training evaluated,
            which are the averaged ones where there are any.
        averaged: the former name of ``average``.
        trust: build the model of a checkpoint's config even where it names code of unknown packages.

    Raises:
        UserError: nothing to load there, weights that cannot be read or do not fit, a config that is not trusted.
    """
    if averaged is not None:
        logger.warning("load(..., averaged=%s): it is called average now", averaged)
        average = averaged
    device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"), "device")
    cfg, path = _locate(source, weights)
    trusted = trust or cfg is not None  # a config that was named is the caller's own
    found = find_weights(path, average)
    if cfg is None:
        origin, known = found.path, found.data
        if weights is not None:
            origin, known = os.fspath(source), {} if os.path.isdir(source) else read_checkpoint(source)
        cfg = config_in(known, origin, trust)
        if not trust:
            check_trusted(cfg, origin)
    class_names, category_ids = _classes(found.data, cfg)
    model = build_for_inference(cfg, len(class_names) or None)
    load_state(model, found.state(), strict=True, name=found.path).check_whole(found.path)
    count = getattr(model, "num_classes", None)
    if count is not None and class_names and count != len(class_names):
        shown = ", ".join(class_names[:8])
        raise UserError(f"{found.path}: the model has {count} classes, its list of names {len(class_names)}: {shown}")
    names = class_names or [f"class {k}" for k in range(count or 0)]
    threshold = threshold_of(found)
    logger.info("threshold: %s", threshold)
    about = cfg, found.path, str(found), threshold, trusted
    return Predictor(model.to(device), names, test_transforms(cfg), category_ids, *about)


def _locate(source: Any, weights: Any) -> tuple[DictConfig | None, str]:
    """(config, or None where it is in the checkpoint; path of the checkpoint or of a run folder)."""
    cfg, path = None, weights
    if isinstance(source, DictConfig):
        cfg = source
    elif os.path.isdir(source) or names_weights(source):
        return None, os.fspath(path or source)
    else:
        cfg = load_config(_config_named(source))
    path = path or OmegaConf.select(cfg, "train.init_checkpoint")
    if not path:
        raise UserError(
            f"{'the config' if isinstance(source, DictConfig) else source}: names no weights (train.init_checkpoint)\n"
            "  load(config, weights=PATH), or load the run folder that training wrote"
        )
    return cfg, os.fspath(path)


def _config_named(source: str | os.PathLike) -> str:
    try:
        return find_config(source)
    except UserError as error:
        raise UserError(
            f"{source}: no run folder, no checkpoint (.pth, .pt, .pkl), and no config\n"
            f"  name a folder that train_net.py wrote, or a .pth file\n{error}"
        ) from error


def _classes(data: dict[str, Any], cfg: DictConfig) -> tuple[list[str], list[int]]:
    """Names and ids of the checkpoint, else of the training JSON where it can be read, else of a published file."""
    if data.get("class_names"):
        return list(map(str, data["class_names"])), list(data.get("category_ids") or ())
    path = OmegaConf.select(cfg, "dataset.train_json", throw_on_resolution_failure=False)
    named = isinstance(path, str) and os.path.isfile(path)
    return read_classes(path) if named else (classes_of(data)[1], [])
