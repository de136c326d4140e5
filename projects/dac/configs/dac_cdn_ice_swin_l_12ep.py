"""The released recipe of DAC-DETR, Swin-L, 12 epochs of COCO at batch 16.

`train.init_checkpoint` must name the authors' file, `swin_large_patch4_window12_384_22k.pth`.
"""

from types import SimpleNamespace

from detrex_ext.config import apply_overlay

from .dac_cdn_ice_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

apply_overlay(SimpleNamespace(model=model, train=train), "swin_l", checkpoint=True)
train.output_dir = "./output/dac_cdn_ice_swin_l_12ep"
