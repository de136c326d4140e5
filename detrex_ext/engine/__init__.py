"""Training and evaluation from a config."""

from .ema import EMAHook, ModelEMA
from .eval_hook import EvalHook
from .evaluation import evaluate, run_evaluation
from .hooks import BestCheckpointer, PeriodicCheckpointer, PeriodicWriter
from .optim import LrFactor, build_optimizer
from .precision import Precision
from .run import train
from .signals import Interrupted, SignalHook
from .trainer import Trainer

__all__ = [
    "BestCheckpointer",
    "EMAHook",
    "EvalHook",
    "Interrupted",
    "LrFactor",
    "ModelEMA",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "Precision",
    "SignalHook",
    "Trainer",
    "build_optimizer",
    "evaluate",
    "run_evaluation",
    "train",
]
