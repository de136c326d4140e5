"""Deformable-DETR++ with collaborative heads (Co-Deformable-DETR), ResNet-50, 12 epochs of COCO at batch 16."""

from detrex_ext import get_config

from ...deformable_detr.configs.deformable_detr_plus_r50_12ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.strategies.co = get_config("common/strategies.py").co
model.strategies.co.heads = ["roi", "atss"]
model.rules.main.matcher.costs[0].eps = 1e-12  # mmdetection's
train.output_dir = "./output/co_deformable_r50_12ep"
