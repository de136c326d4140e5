"""A whole evaluation from a config."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex_ext.checkpoint import Checkpointer, RunFolder, find_weights, load_state
from detrex_ext.checkpoint.threshold import KEY, from_results, put_threshold
from detrex_ext.checkpoint.weights import AVERAGE_KEY
from detrex_ext.config.options import check_options
from detrex_ext.errors import UserError
from detrex_ext.matching import RestrictedMatcher
from detrex_ext.modeling.decoders.set_head import SetHead
from detrex_ext.runtime import comm
from detrex_ext.structures import strip_training_only

from . import setup
from .claim import named
from .start import default_setup

logger = logging.getLogger(__name__)


def metrics_key(cfg: DictConfig, evaluated: str) -> str:
    """What the metrics of an evaluation depend on beside the weights, of which ``evaluated`` says the kind."""
    data, losses = OmegaConf.to_container(cfg.dataloader, resolve=True), " losses" * cfg.train.eval_loss
    return hashlib.sha1(f"{evaluated} {data}{losses}".encode()).hexdigest()


def loss_names(train: Any) -> list[str]:
    """What ``train.eval_loss`` adds to an evaluator's ``metric_names``."""
    return ["val/total_loss", "val/loss_*"] if train.get("eval_loss") else []


def loss_evaluators(
    cfg: DictConfig, model: nn.Module, evaluation: tuple[Any, Any] | None, progress: Callable[[], float]
) -> list[Any]:
    """What ``train.eval_loss`` evaluates beside the metrics.

    Args:
        cfg: the whole config.
        model: the host, unwrapped.
        evaluation: loader and evaluator, if there are any.
        progress: of the training, 0 to 1.

    Raises:
        UserError: the model, or what evaluates it, is not one that has such losses.
    """
    if evaluation is None or not cfg.train.get("eval_loss"):
        return []
    from detrex_ext.evaluation.losses import LossEvaluator

    truth = getattr(evaluation[1], "truth", None)
    if truth is None or not hasattr(model, "predict_sets"):
        raise UserError(
            "train.eval_loss=true needs a detrex_ext model, and an evaluator that has the objects (truth), as "
            "CocoEvaluator\n  leave it out: train.eval_loss=false"
        )
    matcher = getattr(model.rules.get("main"), "matcher", None)
    by_prior = isinstance(matcher, RestrictedMatcher) or getattr(matcher, "boxes", "") == "prior"
    if by_prior and not isinstance(model.decoder, SetHead):
        raise UserError(
            f"train.eval_loss=true: {type(matcher).__name__} matches by where queries began, which two-stage queries "
            "say in training only\n  leave it out: train.eval_loss=false"
        )
    return [LossEvaluator(truth, model.rules, progress)]


def run_evaluation(model: nn.Module, loader: Any, evaluator: Any) -> dict[str, Any]:
    """Evaluates and logs the metrics as scripts read them."""
    from detrex_ext.evaluation import inference_on_dataset, print_csv_format

    inner = model.module if isinstance(model, DistributedDataParallel) else model
    if comm.get_world_size() > 1:
        for buffer in inner.buffers():  # statistics of norms are each rank's own; those of rank 0 are saved
            dist.broadcast(buffer, 0)
    results = inference_on_dataset(inner, loader, evaluator)
    if comm.is_main_process() and isinstance(results, Mapping):
        print_csv_format(results)
    return results


def keep_threshold(trainer: Any, checkpointer: Checkpointer, results: Mapping[str, Any]) -> None:
    """The threshold of an evaluation goes into later checkpoints, and into the final one if it is of it."""
    if not results or not comm.is_main_process():
        return
    found = from_results(results, min(trainer.storage.iter, trainer.max_iter - 1))
    checkpointer.extra.pop(KEY, None)
    if found is not None:
        checkpointer.extra[KEY] = found
    final = checkpointer.folder.final
    if trainer.storage.iter >= trainer.max_iter and final.is_file():
        put_threshold(final, found)


def evaluate(cfg: DictConfig, args: Any = None) -> dict[str, Any]:
    """Evaluates ``train.init_checkpoint`` (a file, or a run folder), or the output folder's run under ``args.resume``.

    Logs go to ``evaluation/`` in the output folder, so that those of a training stay as they are.

    Raises:
        UserError: no checkpoint, or one of other classes or of another model.
    """
    from detrex_ext.evaluation.on_data import check_classes

    check_options(cfg)
    output_dir = named(cfg.train.output_dir)
    source = RunFolder(output_dir) if getattr(args, "resume", False) else cfg.train.init_checkpoint
    if not source:
        raise UserError("--eval-only: which weights? name them by train.init_checkpoint=PATH, or add --resume")
    if os.path.islink(folder := os.path.join(output_dir, "evaluation")):
        raise UserError(f"{folder}: expected a folder, found a link\n  move it away")
    weights = find_weights(source, None if OmegaConf.select(cfg, AVERAGE_KEY, default=True) else False)
    cfg.train.output_dir = folder
    if obstacle := RunFolder(cfg.train.output_dir).obstacle():
        raise UserError(obstacle)
    default_setup(cfg, args)
    evaluation = setup.build_evaluation(cfg)
    if evaluation is None:
        raise UserError("--eval-only: no validation data; set dataset.val_json")
    classes = setup.Classes.of(evaluation[1])
    check_classes(weights.path, weights.data.get("class_names"), classes.names)
    setup.set_num_classes(cfg, classes, evaluation[1].json)
    cfg.model.strategies = {}
    if not cfg.train.get("eval_loss"):
        cfg.model.rules = {}
    model = strip_training_only(setup.build_model(cfg))
    report = load_state(model, weights.state(), name=weights.path)
    report.check_whole(weights.path)
    logger.info("evaluated: %s\n%s", weights, report)
    losses = loss_evaluators(cfg, model, evaluation, lambda: 1.0)
    return run_evaluation(model, evaluation[0], [evaluation[1], *losses])
