"""From a config to a model that only predicts, without importing anything that is needed for training alone."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from .checkpoint import RunFolder
from .config import LazyConfig, build
from .config.files import defined_in
from .config.options import check_options
from .config.upgrade import walk
from .config.yaml_text import NameOnly
from .errors import UserError
from .runtime.standalone.calls import locate
from .structures import strip_training_only
from .trust import check_trusted, drop_unknown_training, known_object

_TRAINING_ONLY = ("strategies", "rules")
_AUGMENTATION = "dataloader.test.mapper.augmentation"


def build_for_inference(cfg: DictConfig, num_classes: int | None = None, frozen: bool = True) -> nn.Module:
    """The model of a config in evaluation mode, without what is there for training only; weights are random.

    Args:
        cfg: with ``model``; not changed.
        num_classes: used where the config leaves ``model.num_classes`` open.
        frozen: no parameter wants a gradient; otherwise those that are trained do.

    Raises:
        UserError: the number of classes is known from neither, or the model refuses an option.
    """
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        for name in _TRAINING_ONLY:
            cfg.model.pop(name, None)
        if "num_classes" in cfg.model and cfg.model.num_classes is None:
            if num_classes is None:
                raise UserError(
                    "the number of classes is unknown: the config leaves it open and the checkpoint names no classes\n"
                    "  set model.num_classes in the config"
                )
            cfg.model.num_classes = num_classes
    check_options(cfg, ("model",))  # no more: what else a checkpoint's config names is not imported
    model = strip_training_only(build(cfg.model, "model", nn.Module)).eval()
    return model.requires_grad_(False) if frozen else model


def config_in(data: dict[str, Any], path: str, trust: bool = False) -> DictConfig:
    """The config inside a checkpoint, or beside it in its run folder; without trust, names are not imported."""
    named = _located if trust else known_object
    beside = RunFolder(path if os.path.isdir(path) else Path(path).parent).config
    try:
        if isinstance(data.get("config"), str):
            cfg = LazyConfig.loads(data["config"], named)
        elif beside.is_file():
            cfg = LazyConfig.loads(beside.read_text(encoding="utf-8"), named)
        else:
            raise UserError(
                f"checkpoint {path}: holds no config, so its model is unknown; no config.yaml is beside it either\n"
                "  load(CONFIG, weights=PATH) with the config it was trained with"
            )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"checkpoint {path}: its config cannot be used: {error}") from error
    model = cfg._get_node("model") if isinstance(cfg, DictConfig) and not cfg._is_none() else None
    if not isinstance(model, DictConfig) or model._is_none() or model._is_interpolation() or "_target_" not in model:
        raise UserError(f"checkpoint {path}: its config has no 'model' with a _target_, so its model is unknown")
    for holder, key, _ in walk(cfg):
        if not isinstance(key, str) and isinstance(holder, DictConfig) and "_target_" in holder:
            raise UserError(f"checkpoint {path}: its config cannot be used: a call has an option named {key!r}")
    return cfg


def _located(name: str) -> Any:
    """What a name of a trusted config is; of a function that a config file defined, the name alone."""
    if defined_in(name):
        return NameOnly(name)
    try:
        return locate(name)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the config names '{name}', which cannot be imported: {reason}") from error


def test_transforms(cfg: DictConfig) -> list[Any]:
    """What an image goes through before the model in evaluation (``dataloader.test.mapper.augmentation``)."""
    try:
        augmentation = OmegaConf.select(cfg, _AUGMENTATION)
    except OmegaConfBaseException as error:
        raise UserError(f"{_AUGMENTATION}: {str(error).splitlines()[0]}") from error
    made = [] if augmentation is None else build(augmentation, _AUGMENTATION)
    if not isinstance(made, list | ListConfig) or not all(map(callable, made)):
        raise UserError(f"{_AUGMENTATION}: expected a list of transforms, found {str(augmentation)[:80]}")
    return list(made)


test_transforms.__test__ = False  # no test, whatever its name begins with


def for_evaluation(cfg: DictConfig, source: str) -> DictConfig:
    """What an evaluation needs of a checkpoint's config, as far as it can be trusted (:func:`check_trusted`).

    Args:
        cfg: as read from the file; not changed.
        source: what the message calls it.

    Raises:
        UserError: naming the first target that is not known.
    """
    made = ("model", "dataloader.test")
    check_trusted(cfg, source, made)  # first, so that no reference is followed that it refuses
    test, evaluator = (OmegaConf.select(cfg, f"dataloader.{key}") for key in ("test", "evaluator"))
    json = evaluator._get_node("json") if isinstance(evaluator, DictConfig) else None  # a reference stays one
    kept = OmegaConf.masked_copy(cfg, [key for key in ("model", "train", "dataset") if key in cfg])
    kept.dataloader = {"test": test, "evaluator": {"json": None if json is None else json._value()}}
    drop_unknown_training(kept)
    check_trusted(kept, source, made, plain=("train", "dataset"))
    return kept
