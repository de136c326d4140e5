"""Typed structures that flow between the parts of a detector."""

from .memory import Features, Memory
from .queries import Queries, Slot, cat
from .supervision import Assignment, Given, LossDict, Pairs, Prior, SupervisedSet
from .targets import Targets
from .training_only import TRAINING_ONLY, is_training_only, strip_training_only, without_training_only

__all__ = [
    "TRAINING_ONLY",
    "Assignment",
    "Features",
    "Given",
    "LossDict",
    "Memory",
    "Pairs",
    "Prior",
    "Queries",
    "Slot",
    "SupervisedSet",
    "Targets",
    "cat",
    "is_training_only",
    "strip_training_only",
    "without_training_only",
]
