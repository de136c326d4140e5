"""A whole evaluation from a config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detrex_ext.checkpoint import Checkpointer, load_weights, read_checkpoint
from detrex_ext.config.options import check_options
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm, default_setup

from . import folder, setup


def run_evaluation(model: nn.Module, loader: Any, evaluator: Any) -> dict[str, Any]:
    """Evaluates and logs the figures as scripts read them."""
    from detrex_ext.evaluation import inference_on_dataset, print_csv_format

    inner = model.module if isinstance(model, DistributedDataParallel) else model
    if comm.get_world_size() > 1:
        for buffer in inner.buffers():  # statistics of norms are each rank's own; those of rank 0 are saved
            dist.broadcast(buffer, 0)
    results = inference_on_dataset(inner, loader, evaluator)
    if comm.is_main_process() and isinstance(results, Mapping):
        print_csv_format(results)
    return results


def evaluate(cfg: DictConfig, args: Any = None) -> dict[str, Any]:
    """Evaluates ``train.init_checkpoint``, or the folder's last checkpoint under ``args.resume``.

    Logs go to ``evaluation/`` in the output folder, so that those of a training stay as they are.

    Raises:
        UserError: no checkpoint, or one of other classes or of another model.
    """
    check_options(cfg)
    path, output_dir = cfg.train.init_checkpoint, folder.named(cfg.train.output_dir)
    if getattr(args, "resume", False):
        saved = Checkpointer.newest(output_dir)
        if saved is None:
            raise UserError(f"--eval-only --resume: no checkpoint in train.output_dir={output_dir}")
        path = saved.path
    if not path:
        raise UserError("--eval-only: which weights? name them by train.init_checkpoint=PATH, or add --resume")
    data = read_checkpoint(path)
    cfg.train.output_dir = os.path.join(output_dir, "evaluation")
    default_setup(cfg, args)
    evaluation = setup.build_evaluation(cfg)
    if evaluation is None:
        raise UserError("--eval-only: no validation data; set dataset.val_json")
    classes = setup.Classes.of(evaluation[1])
    _check_classes(path, data.get("class_names"), classes)
    setup.set_num_classes(cfg, classes, evaluation[1].json)
    cfg.model.rules, cfg.model.strategies = {}, {}
    model = setup.build_model(cfg)
    average = cfg.train.model_ema.use_ema_weights_for_eval_only and setup.EMA_KEY in data
    load_weights(model, path, source=setup.EMA_KEY if average else "model").check_whole(path)
    return run_evaluation(model, *evaluation)


def _check_classes(path: str, names: list[str] | None, classes: setup.Classes) -> None:
    if names is not None and list(names) != classes.names:
        raise UserError(
            f"checkpoint {path} knows {len(names)} classes ({', '.join(map(str, names[:8]))}), the validation data has "
            f"{len(classes.names)} ({', '.join(classes.names[:8])})\n  evaluate on data with the checkpoint's classes"
        )
