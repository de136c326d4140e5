"""Deformable-DETR++ with divide and conquer, ResNet-50, 12 epochs of COCO at batch 16."""

from detrex_ext import get_config

from ...deformable_detr.configs.deformable_detr_plus_r50_12ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.strategies.dac = get_config("common/strategies.py").dac
train.output_dir = "./output/dac_deformable_plus_r50_12ep"
