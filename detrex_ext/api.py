"""Three lines for a user: load a run, predict on an image or evaluate, read boxes."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .checkpoint import classes_of, find_weights, load_state, names_weights, read_checkpoint
from .checkpoint.threshold import threshold_of
from .checkpoint.weights import Weights
from .config import find_config, load_config
from .data import read_classes
from .errors import UserError
from .inference import build_for_inference, config_in, test_transforms
from .predictor import Predictor
from .runtime import native
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
    precision: str = "fp32",
    compile: bool | str = False,
    cuda_graphs: bool = False,
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
        precision: of products and convolutions: "fp32" as in evaluations, "bf16", "fp16", or "auto": bf16 where the
            device multiplies it natively, else fp32.
        compile: let torch compile the model when it first runs, which takes minutes; a name as in ``train.compile``
            = that part of it.
        cuda_graphs: on a CUDA device, record the kernels of a batch's size when it comes for the second time.

    Raises:
        UserError: nothing to load there, weights that cannot be read or do not fit, a config that is not trusted,
            something that the machine cannot do.
    """
    if averaged is not None:
        logger.warning("load(..., averaged=%s): it is called average now", averaged)
        average = averaged
    device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"), "device")
    native.resolve(precision, device)  # refused before anything is read
    if cuda_graphs and device.type != "cuda":
        raise UserError(f"cuda_graphs=True: the model is on {device.type}, and only a CUDA device records graphs")
    cfg, found, trusted = _config_and_weights(source, weights, average, trust)
    model, names, ids = _model(cfg, found)
    model.to(device)
    if compile:
        from .engine.compiling import compile_parts  # the code of training, which takes its time to import

        compile_parts(model, "all" if compile is True else compile, cuda_graphs, key="compile")
    threshold = threshold_of(found)
    logger.info("threshold: %s", threshold)
    about = test_transforms(cfg), ids, cfg, found.path, str(found), threshold
    return Predictor(model, names, *about, trusted, precision=precision, cuda_graphs=cuda_graphs)


def _config_and_weights(
    source: Any, weights: Any, average: bool | None, trust: bool
) -> tuple[DictConfig, Weights, bool]:
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
    return cfg, found, trusted


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


def _model(cfg: DictConfig, found: Weights) -> tuple[nn.Module, list[str], list[int]]:
    """The model with its weights, and names and ids of its classes."""
    class_names, category_ids = _classes(found.data, cfg)
    model = build_for_inference(cfg, len(class_names) or None)
    load_state(model, found.state(), strict=True, name=found.path).check_whole(found.path)
    count = getattr(model, "num_classes", None)
    if count is not None and class_names and count != len(class_names):
        shown = ", ".join(class_names[:8])
        raise UserError(f"{found.path}: the model has {count} classes, its list of names {len(class_names)}: {shown}")
    return model, class_names or [f"class {k}" for k in range(count or 0)], category_ids
