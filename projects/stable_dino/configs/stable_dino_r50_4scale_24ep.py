"""DINO with stable matching, four scales, ResNet-50, 24 epochs of COCO at batch 16; without fusion of the memory."""

from detrex_ext import get_config

from .stable_dino_r50_4scale_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep
train.max_iter = 180000
train.output_dir = "./output/stable_dino_r50_4scale_24ep"
