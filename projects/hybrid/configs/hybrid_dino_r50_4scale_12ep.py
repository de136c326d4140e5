"""DINO, four scales, with hybrid queries, ResNet-50, 12 epochs of COCO at batch 16."""

from detrex_ext.criterion import hybrid_rule
from detrex_ext.modeling.queries import HybridQueries, wrap_source
from detrex_ext.runtime import LazyCall as L

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

wrap_source(model, L(HybridQueries)(num_extra=1500))
model.rules.hybrid = L(hybrid_rule)(main="${model.rules.main}", times=6, weight=1.0)
train.output_dir = "./output/hybrid_dino_r50_4scale_12ep"
