"""A whole training from a config."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import nn

from detrex_ext.checkpoint import Checkpointer, RunFolder
from detrex_ext.checkpoint.threshold import KEY
from detrex_ext.checkpoint.weights import AVERAGE, EVALUATED, TRAINED, WORDS, evaluated_by, rule
from detrex_ext.runtime import comm

from . import setup
from .best_metric import check_metric
from .checkpoint_hooks import PeriodicCheckpointer
from .claim import Claim, named
from .compiling import build_to_train
from .distillation import teaching_hooks
from .ema import EMAHook, ModelEMA
from .ending import asked, build_best, build_budget, ended_after, ending_hooks
from .eval_hook import EvalHook, Period
from .evaluation import keep_threshold, loss_evaluators, loss_names, metrics_key, run_evaluation
from .hooks import IterationTimer, LRScheduler
from .non_finite import NonFinite
from .optim import build_optimizer, clipping
from .overfit import take_few
from .precision import Precision
from .progress import writer_hooks
from .reporting import report_training
from .resuming import check_saved, newest, take_saved, tell
from .schedule import build_schedule
from .sharding import gathered, is_sharded, over_processes
from .signals import SignalHook, StoppableLoader, stopped_by
from .start import begin, logged_later
from .trainer import Trainer

logger = logging.getLogger(__name__)


def train(cfg: DictConfig, args: Any = None) -> dict[str, Any]:
    """Trains as the config says, and goes on from the folder's last checkpoint under ``args.resume``.

    Args:
        cfg: with ``train``, ``dataset``, ``dataloader``, ``model``, ``optimizer``, ``lr_multiplier``; the seed and the
            number of classes are filled in.
        args: parsed command line; ``resume`` and ``config_file`` are used.

    Returns:
        The metrics of the last evaluation, on rank 0.

    Raises:
        UserError: bad input; checkpoints and metrics of another run in the folder are then still there.
    """
    began = time.monotonic()
    setup.settle(cfg)
    resume = bool(getattr(args, "resume", False))
    with Claim(RunFolder(named(cfg.train.output_dir)), resume, cfg.train.overwrite) as claim:
        return _train(cfg, args, claim, resume, began)


def _train(cfg: DictConfig, args: Any, claim: Claim, resume: bool, began: float) -> dict[str, Any]:
    with logged_later():  # what is wrong with a checkpoint is told before there is a log
        saved = newest(claim.folder) if resume else None
        taken = take_saved(cfg, saved)
        cfg.train.seed = begin(cfg, args)
    take_few(cfg)
    loader = setup.build_train_loader(cfg)
    classes = setup.Classes.of(loader.dataset)
    setup.set_num_classes(cfg, classes, getattr(loader.dataset, "json", "the training data"))
    evaluation = setup.build_evaluation(cfg, loader.dataset)
    if evaluation is not None and cfg.train.best_checkpoint.enabled:
        check_metric(cfg.train.best_checkpoint.metric, evaluation[1], more=loss_names(cfg.train))
    model = build_to_train(cfg)
    if saved is None:
        setup.init_weights(cfg, model, classes)
    setup.log_start(cfg, model, loader)
    run = _Run(cfg, model, loader, evaluation, classes, began)
    start = run.resume_from(saved, taken) if resume else 0
    length = run.budget.max_iter if run.budget else cfg.train.max_iter
    ended = ended_after(saved, run.asked)
    if (done := ended or start) >= (ended or length):
        logger.info("%d of %d iterations are done: nothing to train", done, ended or length)
    if ended and start < ended:  # it holds the best weights, which are of before the end
        return run.results
    claim.clear()
    claim.rewind(saved, start)
    run.checkpointer.extra["config"] = setup.save_final_config(cfg)
    if comm.is_main_process():  # writers open their files: metrics.json was cut to where training goes on
        run.trainer.register_hooks(writer_hooks(cfg))
    run.trainer.train(start, ended or length)
    with run.applied(), gathered(model):
        report_training(cfg, getattr(args, "config_file", "") or "", model, evaluation, run.trainer.iter)
    return run.results


class _Run:
    """The parts of a training that refer to each other."""

    def __init__(
        self, cfg: DictConfig, model: nn.Module, loader: Any, evaluation: tuple | None, classes: Any, began: float
    ) -> None:
        self.cfg, self.model, self.evaluation, self.asked = cfg, model, evaluation, asked(cfg.train)
        self.results: dict[str, Any] = {}
        wrapped = over_processes(cfg, model)  # gives every rank the weights of rank 0
        optimizer = build_optimizer(cfg, model)
        opts = cfg.train.model_ema
        self.ema = ModelEMA(model, opts.decay, opts.warmup, opts.device) if opts.enabled else None
        self.evaluated = AVERAGE if self.ema and opts.average else TRAINED
        self.trainer = Trainer(
            wrapped,
            loader,
            optimizer,
            precision=Precision(cfg.train.device, **cfg.train.amp),
            accumulate_steps=cfg.train.accumulate_steps,
            clip_grad=clipping(cfg.train.clip_grad, model),
            log_period=cfg.train.log_period,
            # what one rank holds of sharded weights is of no use alone
            non_finite=NonFinite(**cfg.train.non_finite, folder="" if is_sharded(model) else cfg.train.output_dir),
        )
        self.losses = loss_evaluators(cfg, model, evaluation, self.trainer.progress)
        if hasattr(loader, "set_device"):
            loader.set_device(self.trainer.device)
        extra = {
            "class_names": classes.names,
            "category_ids": classes.ids,
            "seed": cfg.train.seed,
            "precision": self.trainer.precision.name,
            EVALUATED: self.evaluated,
        }
        parts = {"trainer": self.trainer, "rng": self.trainer.rng, **({AVERAGE: self.ema} if self.ema else {})}
        self.checkpointer = Checkpointer(model, cfg.train.output_dir, extra=extra, **parts)
        self.trainer.non_finite.extra = self.checkpointer.extra
        self.budget = build_budget(cfg, began, evaluation) if cfg.train.minutes else None
        keep, period = cfg.train.checkpointer.max_to_keep, self._period(cfg.train.checkpointer.period)
        self.periodic, self.best = PeriodicCheckpointer(self.checkpointer, period, keep), None
        if evaluation is not None and cfg.train.best_checkpoint.enabled:
            self.best = build_best(cfg.train, self.checkpointer, evaluation[1], self._period(cfg.train.eval_period))
        self.trainer.register_hooks(self._hooks())
        self.trainer.precision.log()
        logger.info(rule(self.ema is not None, self.evaluated))

    def _hooks(self) -> list[Any]:
        t, key, evaluating = self.cfg.train, metrics_key(self.cfg, self.evaluated), None
        if self.evaluation:
            period, told = self._period(t.eval_period), partial(keep_threshold, self.trainer, self.checkpointer)
            evaluating = EvalHook(period, self.evaluate, folder=t.output_dir, key=key, told=told)
        return [
            SignalHook(),
            IterationTimer(),
            EMAHook(self.ema) if self.ema else None,
            self.budget,
            LRScheduler(scheduler=self.budget.schedule() if self.budget else build_schedule(self.cfg)),
            self.periodic,
            evaluating,
            self.best,
            *ending_hooks(self.cfg, self.best, self.asked),
            *teaching_hooks(t.get("teacher"), self.model, self.checkpointer.extra["class_names"]),
        ]

    def _period(self, iterations: int) -> Period:
        return self.budget.due if self.budget else iterations

    def resume_from(self, saved: Any, taken: list) -> int:
        """The iteration to go on with, everything loaded and told; 0 where the folder has no checkpoint."""
        if saved is None:
            logger.warning("--resume: no checkpoint in %s: training from the beginning", self.cfg.train.output_dir)
            return 0
        check_saved(saved, self.checkpointer.extra)
        self.checkpointer.apply(saved)
        tell(saved, self.cfg, self.checkpointer.extra, self.trainer.iter + 1, taken)
        if KEY in saved.data:
            self.checkpointer.extra[KEY] = saved.data[KEY]
        if self.ema is not None and AVERAGE not in saved.data:
            logger.warning("resume: %s holds no averaged weights: they begin with the trained ones", saved.path)
            self.ema.restart()
        before = evaluated_by(saved.data)
        if before != self.evaluated:
            logger.warning("resume: before, %s were evaluated: the best so far is forgotten", WORDS[before])
            self.checkpointer.extra.pop(KEY, None)
            if self.best is not None:
                self.best.forget()
        return self.trainer.iter + 1

    def evaluate(self) -> dict[str, Any]:
        """Metrics of the average, or of the trained weights where the config asks for these or there is no other."""
        loader, evaluator = self.evaluation
        with stopped_by(self.periodic.stop), self.applied(), gathered(self.model):
            batches = StoppableLoader(loader, self.trainer)
            self.results = run_evaluation(self.model, batches, [evaluator, *self.losses])
        return self.results

    def applied(self) -> contextlib.AbstractContextManager:
        """The model has the weights that are evaluated inside."""
        return self.ema.applied() if self.evaluated == AVERAGE else contextlib.nullcontext()
