"""DAB-DETR with divide and conquer, ResNet-50, 50 epochs of COCO at batch 16."""

from detrex_ext import get_config

from ...dab_detr.configs.dab_detr_r50_50ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.dac = get_config("common/strategies.py").dac
train.output_dir = "./output/dac_dab_r50_50ep"
