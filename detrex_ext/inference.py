"""From a config to a model that only predicts, without importing anything that is needed for training alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from .config import build
from .config.options import check_options
from .errors import UserError
from .runtime import instantiate
from .runtime.standalone.calls import locate
from .structures import strip_training_only

# Packages whose models and transforms a config inside a checkpoint may name.
_TRUSTED = (
    "detrex_ext.modeling.",
    "detrex_ext.layers.",
    "detrex_ext.data.transforms.",
    "detrex_ext.data.affine.",
    "detectron2.modeling.",
    "detectron2.layers.",
    "detrex.modeling.",
    "detrex.layers.",
    "torch.nn.",
    "torchvision.models.",
    "torchvision.ops.",
)
# What an evaluation reads its data by; no more of that package, where a function may be handed over to be called.
_TRUSTED_DATA = (
    "detrex_ext.data.build.build_test_loader",
    "detrex_ext.data.coco.CocoDataset",
    "detrex_ext.data.mapper.DetrMapper",
)
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
    model = strip_training_only(build(cfg.model, "model")).eval()
    return model.requires_grad_(False) if frozen else model


def test_transforms(cfg: DictConfig) -> list[Any]:
    """What an image goes through before the model in evaluation (``dataloader.test.mapper.augmentation``)."""
    augmentation = OmegaConf.select(cfg, _AUGMENTATION)
    return [] if augmentation is None else list(instantiate(augmentation))


test_transforms.__test__ = False  # no test, whatever its name begins with


def for_evaluation(cfg: DictConfig, source: str) -> DictConfig:
    """What an evaluation needs of a checkpoint's config, as far as it can be trusted (:func:`check_trusted`).

    Args:
        cfg: as read from the file; not changed.
        source: what the message calls it.

    Raises:
        UserError: naming the first target that is not known.
    """
    test, evaluator = (OmegaConf.select(cfg, f"dataloader.{key}") for key in ("test", "evaluator"))
    json = evaluator._get_node("json") if isinstance(evaluator, DictConfig) else None  # a reference stays one
    kept = OmegaConf.masked_copy(cfg, [key for key in ("model", "train", "dataset") if key in cfg])
    kept.dataloader = {"test": test, "evaluator": {"json": None if json is None else json._value()}}
    check_trusted(kept, source, ("model", "dataloader.test"))
    return kept


def check_trusted(cfg: DictConfig, source: str, keys: Sequence[str] = ("model", _AUGMENTATION)) -> None:
    """Refuse a config that would call anything but parts of models and transforms of known packages.

    A config can name any function; one from a checkpoint of unknown origin must not be able to run it.

    Args:
        cfg: as read from the file.
        source: what the message calls it.
        keys: what will be made of it.

    Raises:
        UserError: naming the first target that is not known.
    """
    for name in sorted({name for key in keys for name in _targets(cfg, key)}):
        if not _is_trusted(name):
            raise UserError(
                f"{source}: its config would call '{name}', no model part of detrex_ext, detrex, detectron2 or torch\n"
                "  if you trust where the file comes from: load(..., trust=True), or predict --trust"
            )


def _targets(cfg: DictConfig, key: str) -> Iterator[str]:
    node = OmegaConf.select(cfg, key)
    if node is None:
        return
    plain = OmegaConf.to_container(node, resolve=True)  # what an interpolation leads to is called too
    if key == "model":
        plain = {k: v for k, v in plain.items() if k not in _TRAINING_ONLY}
    stack = [plain]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "_target_" in item:
                yield str(item["_target_"])
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)


def _is_trusted(name: str) -> bool:
    """By the module that defines the object, not by the name alone, which may lead through a module to any other."""
    roots = {prefix.partition(".")[0] for prefix in _TRUSTED}
    if name.partition(".")[0] not in roots:
        return False
    try:
        found = locate(name)
    except Exception as error:
        raise UserError(f"the config names '{name}', which cannot be imported: {error}") from error
    module = f"{getattr(found, '__module__', '')}."
    whole = f"{module}{getattr(found, '__qualname__', '')}"
    return whole in _TRUSTED_DATA or (isinstance(found, type) and module.startswith(_TRUSTED))
