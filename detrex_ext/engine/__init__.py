"""Training and evaluation from a config."""

from .checkpoint_hooks import BestCheckpointer, PeriodicCheckpointer
from .ema import EMAHook, ModelEMA
from .eval_hook import EvalHook
from .evaluation import evaluate, run_evaluation
from .hooks import IterationTimer, LRScheduler, PeriodicWriter
from .launching import launch
from .log import setup_logger
from .loop import TrainerBase
from .optim import LrFactor, build_optimizer, slow_down
from .precision import Precision
from .run import train
from .signals import Interrupted, SignalHook
from .start import collect_env_info, default_setup, seed_all_rng
from .trainer import Trainer
from .two_optimizers import SGDAndAdamW, two_optimizer_params
from .writers import (
    CommonMetricPrinter,
    CSVWriter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    WandbWriter,
    default_writers,
)

__all__ = [
    "BestCheckpointer",
    "CSVWriter",
    "CommonMetricPrinter",
    "EMAHook",
    "EvalHook",
    "EventWriter",
    "Interrupted",
    "IterationTimer",
    "JSONWriter",
    "LRScheduler",
    "LrFactor",
    "ModelEMA",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "Precision",
    "SGDAndAdamW",
    "SignalHook",
    "TensorboardXWriter",
    "Trainer",
    "TrainerBase",
    "WandbWriter",
    "build_optimizer",
    "collect_env_info",
    "default_setup",
    "default_writers",
    "evaluate",
    "launch",
    "run_evaluation",
    "seed_all_rng",
    "setup_logger",
    "slow_down",
    "train",
    "two_optimizer_params",
]
