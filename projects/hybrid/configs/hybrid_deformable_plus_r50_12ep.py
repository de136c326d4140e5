"""H-Deformable-DETR on Deformable-DETR++ (mixed selection, no dropout), ResNet-50, 12 epochs of COCO at batch 16."""

from detrex_ext.criterion import hybrid_rule
from detrex_ext.modeling.queries import HybridQueries, wrap_source
from detrex_ext.runtime import LazyCall as L

from ...deformable_detr.configs.deformable_detr_plus_r50_12ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

wrap_source(model, L(HybridQueries)(num_extra=1500))
model.rules.hybrid = L(hybrid_rule)(main="${model.rules.main}", times=6, weight=1.0)
train.output_dir = "./output/hybrid_deformable_plus_r50_12ep"
