"""DINO with stable matching, four scales, ResNet-50, 12 epochs of COCO at batch 16; without fusion of the memory.

As the authors evaluate, with suppression of duplicates.
"""

from types import SimpleNamespace

from detrex_ext.config import apply_overlay

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

apply_overlay(SimpleNamespace(model=model, train=train), "stable")
model.postprocess.nms = 0.8
train.output_dir = "./output/stable_dino_r50_4scale_12ep"
