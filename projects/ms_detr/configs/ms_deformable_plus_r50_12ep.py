"""Deformable-DETR++ with mixed supervision (MS-DETR), 300 queries, ResNet-50, 12 epochs of COCO at batch 16."""

import copy

from detrex_ext import get_config
from detrex_ext.criterion import Rule
from detrex_ext.matching import GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.runtime import LazyCall as L

from ...deformable_detr.configs.deformable_detr_plus_r50_12ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.decoder.cross_first = True
model.strategies.ms = get_config("common/strategies.py").ms
model.strategies.ms.class_weight = 2.0
# proposals are matched by where they begin, whatever they look like, and keep the class weight of the host
model.queries.match_anchors = True
model.rules.enc = L(Rule)(
    matcher=L(HungarianMatcher)(costs=[L(L1Cost)(weight=5.0), L(GIoUCost)(weight=2.0, eps=0.0)]),
    terms=copy.deepcopy(model.rules.main.terms),
    objectness=True,
)
model.rules.main.terms["class"].weight = 1.0
train.output_dir = "./output/ms_deformable_plus_r50_12ep"
