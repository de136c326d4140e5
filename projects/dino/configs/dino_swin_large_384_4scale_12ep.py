"""DINO, four scales, Swin-L (window 12, ImageNet-22k at 384 px), 12 epochs of COCO at batch 16.

`train.init_checkpoint` must name the authors' file, `swin_large_patch4_window12_384_22kto1k.pth`.
"""

from types import SimpleNamespace

from detrex_ext.config import apply_overlay

from .dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

apply_overlay(SimpleNamespace(model=model, train=train), "swin_l")
train.output_dir = "./output/dino_swin_large_384_4scale_12ep"
