"""Deformable-DETR with eleven groups of queries, ResNet-50, 50 epochs of COCO at batch 16."""

from detrex_ext.modeling.queries import GroupQueries, wrap_source
from detrex_ext.runtime import LazyCall as L

from ...deformable_detr.configs.deformable_detr_r50_50ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

wrap_source(model, L(GroupQueries)(groups=11))
model.rules.group = "${model.rules.main}"
train.output_dir = "./output/group_deformable_detr_r50_50ep"
