"""A whole training from a config."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from detrex_ext.checkpoint import Checkpointer
from detrex_ext.config import build
from detrex_ext.errors import UserError
from detrex_ext.runtime import (
    IterationTimer,
    LRScheduler,
    comm,
    create_ddp_model,
    default_setup,
    default_writers,
)

from . import folder, setup
from .best_metric import check_metric
from .ema import EMAHook, ModelEMA
from .eval_hook import EvalHook
from .evaluation import run_evaluation
from .hooks import BestCheckpointer, PeriodicCheckpointer, PeriodicWriter
from .optim import build_optimizer, clipping
from .precision import Precision
from .signals import SignalHook
from .trainer import Trainer

logger = logging.getLogger(__name__)


def train(cfg: DictConfig, args: Any = None) -> dict[str, Any]:
    """Trains as the config says, and goes on from the folder's last checkpoint under ``args.resume``.

    Args:
        cfg: with ``train``, ``dataset``, ``dataloader``, ``model``, ``optimizer``, ``lr_multiplier``; the seed and the
            number of classes are filled in.
        args: parsed command line; ``resume`` and ``config_file`` are used.

    Returns:
        The figures of the last evaluation, on rank 0.

    Raises:
        UserError: bad input; checkpoints and metrics of another run in the folder are then still there.
    """
    resume = bool(getattr(args, "resume", False))
    setup.settle(cfg)
    output_dir = folder.named(cfg.train.output_dir)
    old = folder.claim(output_dir, resume, cfg.train.overwrite)
    saved = Checkpointer.newest(output_dir) if resume else None
    if saved and cfg.train.seed < 0:
        cfg.train.seed = saved.data.get("seed", cfg.train.seed)
    cfg.train.seed = default_setup(cfg, args)
    loader = setup.build_train_loader(cfg)
    classes = setup.Classes.of(loader.dataset)
    setup.set_num_classes(cfg, classes, loader.dataset.json)
    evaluation = setup.build_evaluation(cfg, loader.dataset)
    if evaluation is not None and cfg.train.best_checkpoint.enabled:
        ema = cfg.train.model_ema
        both = ema.enabled and not ema.use_ema_weights_for_eval_only
        check_metric(cfg.train.best_checkpoint.metric, evaluation[1], ("", "ema/") if both else ("",))
    model = setup.build_model(cfg)
    if saved is None:
        setup.init_weights(cfg, model, classes)
    extra = {
        "class_names": classes.names,
        "category_ids": classes.category_ids,
        "config": setup.save_final_config(cfg),
        "seed": cfg.train.seed,
    }
    setup.log_start(cfg, model, loader)
    run = _Run(cfg, model, loader, evaluation, extra)
    start = run.resume_from(saved) if resume else 0
    folder.clear(output_dir, old)
    folder.rewind(output_dir, start)
    run.trainer.register_hooks([run.writer_hook()])
    run.trainer.train(start, cfg.train.max_iter)
    return run.results


class _Run:
    """The parts of a training that refer to each other."""

    def __init__(
        self, cfg: DictConfig, model: nn.Module, loader: Any, evaluation: tuple | None, extra: dict[str, Any]
    ) -> None:
        self.cfg, self.model, self.evaluation = cfg, model, evaluation
        self.results: dict[str, Any] = {}
        optimizer = build_optimizer(cfg, model)
        wrapped = create_ddp_model(model, **cfg.train.ddp)  # gives every rank the weights of rank 0
        opts = cfg.train.model_ema
        self.ema = ModelEMA(model, opts.decay, opts.warmup, opts.device) if opts.enabled else None
        self.trainer = Trainer(
            wrapped,
            loader,
            optimizer,
            precision=Precision(cfg.train.device, **cfg.train.amp),
            accumulate_steps=cfg.train.accumulate_steps,
            clip_grad=clipping(cfg.train.clip_grad),
            log_period=cfg.train.log_period,
        )
        more = {setup.EMA_KEY: self.ema} if self.ema else {}
        self.checkpointer = Checkpointer(
            model, cfg.train.output_dir, extra=extra, trainer=self.trainer, rng=self.trainer.rng, **more
        )
        self.trainer.register_hooks(self._hooks())

    def _hooks(self) -> list[Any]:
        t = self.cfg.train
        key = hashlib.sha1(str(OmegaConf.to_container(self.cfg.dataloader, resolve=True)).encode()).hexdigest()
        evaluate, best = self.evaluation is not None, t.best_checkpoint
        return [
            SignalHook(),
            IterationTimer(),
            EMAHook(self.ema) if self.ema else None,
            LRScheduler(scheduler=build(self.cfg.lr_multiplier, "lr_multiplier")),
            PeriodicCheckpointer(self.checkpointer, t.checkpointer.period, t.checkpointer.max_to_keep),
            EvalHook(t.eval_period, self.evaluate, t.output_dir, key) if evaluate else None,
            BestCheckpointer(self.checkpointer, t.eval_period, best.metric, best.mode)
            if evaluate and best.enabled
            else None,
        ]

    def writer_hook(self) -> Any:
        """Writers open their files, so this comes after ``metrics.json`` is cut to where training goes on."""
        if not comm.is_main_process():
            return None
        writers = default_writers(self.cfg.train.output_dir, self.cfg.train.max_iter)
        return PeriodicWriter(writers, self.cfg.train.log_period)

    def resume_from(self, saved: Any) -> int:
        """The iteration to go on with, everything loaded; 0 where the folder has no checkpoint."""
        if saved is None:
            logger.warning("--resume: no checkpoint in %s: training from the beginning", self.cfg.train.output_dir)
            return 0
        then, now = saved.data.get("class_names"), self.checkpointer.extra["class_names"]
        if then is not None and list(then) != now:
            raise UserError(f"--resume: {saved.path} was trained on classes {list(then)}, the data has {now}")
        self.checkpointer.apply(saved)
        return self.trainer.iter + 1

    def evaluate(self) -> dict[str, Any]:
        """Figures of the weights and of their average, as far as the config asks for."""
        loader, evaluator = self.evaluation
        only_average = self.ema is not None and self.cfg.train.model_ema.use_ema_weights_for_eval_only
        results: dict[str, Any] = {}
        if not only_average:
            results = run_evaluation(self.model, loader, evaluator)
        if self.ema is not None:
            with self.ema.applied():
                average = run_evaluation(self.model, loader, evaluator)
            results = average if only_average else {**results, "ema": average}
        self.results = results
        return results
