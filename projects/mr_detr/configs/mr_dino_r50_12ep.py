"""DINO with multi-route training (Mr. DETR), ResNet-50, four scales, 12 epochs of COCO at batch 16."""

from detrex_ext import get_config

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.mr = get_config("common/strategies.py").mr
train.output_dir = "./output/mr_dino_r50_12ep"
