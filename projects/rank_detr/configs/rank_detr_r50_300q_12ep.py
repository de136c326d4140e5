"""Rank-DETR's loss and late matching on H-Deformable-DETR, ResNet-50, 300 queries, 12 epochs of COCO at batch 16.

Without the parts that change the model: content by rank, and a class head by rank.
"""

from types import SimpleNamespace

from detrex_ext import get_config
from detrex_ext.config import apply_overlay
from detrex_ext.criterion import hybrid_rule
from detrex_ext.modeling.queries import HybridQueries, wrap_source
from detrex_ext.runtime import LazyCall as L

from ...deformable_detr.configs.deformable_detr_r50_two_stage_50ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep

model.encoder.update(ffn_dim=2048, dropout=0.0)
model.queries.content = "mixed"
model.decoder.update(ffn_dim=2048, dropout=0.0, look_forward_twice=True)
model.rules.main.terms["class"].weight = 2.0
wrap_source(model, L(HybridQueries)(num_extra=1500))
model.rules.hybrid = L(hybrid_rule)(main="${model.rules.main}", times=6, weight=1.0)
apply_overlay(SimpleNamespace(model=model, train=train), "high_order")
train.output_dir = "./output/rank_detr_r50_300q_12ep"
train.max_iter = 90000
