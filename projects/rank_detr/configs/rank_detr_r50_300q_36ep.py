"""Rank-DETR's loss and late matching on H-Deformable-DETR, ResNet-50, 300 queries, 36 epochs of COCO at batch 16."""

from detrex_ext import get_config

from .rank_detr_r50_300q_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
train.output_dir = "./output/rank_detr_r50_300q_36ep"
train.max_iter = 270000
