"""DINO with DEIM's matchability-aware loss, four scales, ResNet-50, 12 epochs of COCO at batch 16."""

from types import SimpleNamespace

from detrex_ext.config import apply_overlay

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

apply_overlay(SimpleNamespace(model=model, train=train), "mal")
train.output_dir = "./output/deim_dino_r50_4scale_12ep_mal"
