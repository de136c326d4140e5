"""From supervised sets and objects to weighted losses."""

from .losses import FocalLoss, GIoULoss, L1Loss, Loss, SigmoidLoss, SoftmaxLoss
from .normalizers import NORMALIZERS, Normalizer, NumObjects
from .quality_losses import AlignedLoss, QualityFocalLoss, VarifocalLoss
from .rules import Rule, Term, detr_rule, detr_rules, hybrid_rule, rules_by_group
from .set_criterion import SetCriterion
from .supervision import Supervision

__all__ = [
    "NORMALIZERS",
    "AlignedLoss",
    "FocalLoss",
    "GIoULoss",
    "L1Loss",
    "Loss",
    "Normalizer",
    "NumObjects",
    "QualityFocalLoss",
    "Rule",
    "SetCriterion",
    "SigmoidLoss",
    "SoftmaxLoss",
    "Supervision",
    "Term",
    "VarifocalLoss",
    "detr_rule",
    "detr_rules",
    "hybrid_rule",
    "rules_by_group",
]
