"""Deformable-DETR (one-stage, no refinement), ResNet-50, 12 epochs, with selective query recollection: 32 sets."""

from detrex_ext import get_config

from .deformable_detr_r50_50ep_sqr import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train.max_iter = 45000  # 12 epochs of 3,750 iterations
train.output_dir = "./output/deformable_detr_r50_12ep_sqr"
