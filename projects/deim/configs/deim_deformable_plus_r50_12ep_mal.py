"""Deformable-DETR++ with DEIM's matchability-aware loss, ResNet-50, 12 epochs of COCO at batch 16."""

from types import SimpleNamespace

from detrex_ext.config import apply_overlay

from ...deformable_detr.configs.deformable_detr_plus_r50_12ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

apply_overlay(SimpleNamespace(model=model, train=train), "mal")
train.output_dir = "./output/deim_deformable_plus_r50_12ep_mal"
