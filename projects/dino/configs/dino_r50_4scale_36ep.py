"""DINO, four scales, ResNet-50, 36 epochs of COCO at batch 16."""

from detrex_ext import get_config

from .dino_r50_4scale_24ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep

train.output_dir = "./output/dino_r50_4scale_36ep"
train.max_iter = 270000
