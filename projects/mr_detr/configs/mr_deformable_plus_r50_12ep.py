"""Deformable-DETR++ with multi-route training (Mr. DETR), 900 queries, ResNet-50, 12 epochs of COCO at batch 16."""

import copy

from detrex_ext import get_config
from detrex_ext.criterion import Rule
from detrex_ext.matching import GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.runtime import LazyCall as L

from ...deformable_detr.configs.deformable_detr_r50_two_stage_50ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep

model.encoder.update(ffn_dim=2048, dropout=0.0)
model.queries.update(num_queries=900, content="mixed", match_anchors=True)
model.decoder.update(ffn_dim=2048, dropout=0.0, look_forward_twice=True)
model.strategies.mr = get_config("common/strategies.py").mr
model.rules.main.terms["class"].weight = 2.0
# proposals of both heads are matched by where they begin, and count three times
terms = copy.deepcopy(model.rules.main.terms)
for term in ("class", "bbox", "giou"):
    terms[term].weight *= 3
model.rules.enc = L(Rule)(
    matcher=L(HungarianMatcher)(costs=[L(L1Cost)(weight=5.0), L(GIoUCost)(weight=2.0)]), terms=terms, objectness=True
)
train.output_dir = "./output/mr_deformable_plus_r50_12ep"
train.max_iter = 90000
