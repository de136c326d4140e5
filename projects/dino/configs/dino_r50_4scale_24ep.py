"""DINO, four scales, ResNet-50, 24 epochs of COCO at batch 16; position codes of the paper, all images."""

from detrex_ext import get_config

from .dino_r50_4scale_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep

model.encoder.update(temperature=20.0, offset=0.0)
dataloader.train.dataset.filter_empty = False
train.output_dir = "./output/dino_r50_4scale_24ep"
train.max_iter = 180000
