"""H-Deformable-DETR on Deformable-DETR++ (mixed selection, no dropout), ResNet-50, 36 epochs of COCO at batch 16."""

from detrex_ext import get_config

from .hybrid_deformable_plus_r50_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
train.max_iter = 270000
train.output_dir = "./output/hybrid_deformable_plus_r50_36ep"
