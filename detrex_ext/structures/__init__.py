"""Typed structures that flow between the parts of a detector."""

from .memory import Features, Memory
from .queries import Queries, Slot, cat
from .supervision import Assignment, Given, LossDict, Pairs, Prior, SupervisedSet
from .targets import Targets

__all__ = [
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
]
