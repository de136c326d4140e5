"""Training and evaluation from a config."""

from .ema import EMAHook, ModelEMA
from .hooks import BestCheckpointer, EvalHook, Interrupted, PeriodicCheckpointer, SignalHook
from .optim import LrFactor, build_optimizer
from .precision import Precision
from .run import evaluate, run_evaluation, train
from .trainer import Trainer

__all__ = [
    "BestCheckpointer",
    "EMAHook",
    "EvalHook",
    "Interrupted",
    "LrFactor",
    "ModelEMA",
    "PeriodicCheckpointer",
    "Precision",
    "SignalHook",
    "Trainer",
    "build_optimizer",
    "evaluate",
    "run_evaluation",
    "train",
]
