"""Two-stage Deformable-DETR with divide and conquer, ResNet-50, 24 epochs of COCO at batch 16."""

from detrex_ext import get_config

from .dac_deformable_r50_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep
train.max_iter = 180000
train.output_dir = "./output/dac_deformable_r50_24ep"
