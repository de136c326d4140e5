"""From supervised sets and objects to weighted losses."""

from .class_terms import class_terms
from .fcos_losses import CenternessLoss, CentralGIoULoss, ClassDenorm, NumCandidates, SumOfCenterness
from .head_rules import AnchorGIoULoss, PairsOfImages, atss_rule, region_rule
from .losses import FocalLoss, GIoULoss, L1Loss, Loss, SigmoidLoss, SoftmaxLoss
from .normalizers import NORMALIZERS, Normalizer, NumImages, NumObjects
from .position_losses import GIoUAwareLoss, PositionLoss
from .quality_losses import AlignedLoss, MatchabilityLoss, QualityFocalLoss, VarifocalLoss
from .roi_losses import ClassBoxGIoULoss, DeltaLoss, NumRegions, ObjectsAndImages, RegionSoftmaxLoss
from .rules import Rule, Term, detr_rule, detr_rules, hybrid_rule, rules_by_group
from .set_criterion import SetCriterion
from .supervision import Supervision
from .tsp_rules import rpn_rule, tsp_fcos_rule, tsp_fcos_rules, tsp_rcnn_rule, tsp_rcnn_rules, tsp_token_rule

__all__ = [
    "NORMALIZERS",
    "AlignedLoss",
    "AnchorGIoULoss",
    "CenternessLoss",
    "CentralGIoULoss",
    "ClassBoxGIoULoss",
    "ClassDenorm",
    "DeltaLoss",
    "FocalLoss",
    "GIoUAwareLoss",
    "GIoULoss",
    "L1Loss",
    "Loss",
    "MatchabilityLoss",
    "Normalizer",
    "NumCandidates",
    "NumImages",
    "NumObjects",
    "NumRegions",
    "PairsOfImages",
    "PositionLoss",
    "ObjectsAndImages",
    "QualityFocalLoss",
    "RegionSoftmaxLoss",
    "Rule",
    "SetCriterion",
    "SigmoidLoss",
    "SoftmaxLoss",
    "SumOfCenterness",
    "Supervision",
    "Term",
    "VarifocalLoss",
    "atss_rule",
    "class_terms",
    "detr_rule",
    "detr_rules",
    "hybrid_rule",
    "region_rule",
    "rpn_rule",
    "rules_by_group",
    "tsp_fcos_rule",
    "tsp_fcos_rules",
    "tsp_rcnn_rule",
    "tsp_rcnn_rules",
    "tsp_token_rule",
]
