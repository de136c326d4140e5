"""Deformable-DETR++ with multi-route training (Mr. DETR), 900 queries, ResNet-50, 24 epochs of COCO at batch 16."""

from detrex_ext import get_config

from .mr_deformable_plus_r50_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep

model.encoder.update(temperature=20.0, offset=0.0)
train.output_dir = "./output/mr_deformable_plus_r50_24ep"
train.max_iter = 180000
