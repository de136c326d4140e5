"""From supervised sets and objects to weighted losses."""

from .losses import FocalLoss, GIoULoss, L1Loss, Loss, SoftmaxLoss
from .normalizers import NORMALIZERS, Normalizer
from .rules import Rule, Term, detr_rule, detr_rules, rules_by_group
from .set_criterion import SetCriterion
from .supervision import Supervision

__all__ = [
    "NORMALIZERS",
    "FocalLoss",
    "GIoULoss",
    "L1Loss",
    "Loss",
    "Normalizer",
    "Rule",
    "SetCriterion",
    "SoftmaxLoss",
    "Supervision",
    "Term",
    "detr_rule",
    "detr_rules",
    "rules_by_group",
]
