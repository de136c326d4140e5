"""The released recipe of DAC-DETR, Swin-L, 24 epochs of COCO at batch 16.

`train.init_checkpoint` must name the authors' file, `swin_large_patch4_window12_384_22k.pth`.
"""

from detrex_ext import get_config

from .dac_cdn_ice_swin_l_12ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep
model.backbone.drop_path = 0.5
optimizer.weight_decay = 0.05
train.max_iter = 180000
train.output_dir = "./output/dac_cdn_ice_swin_l_24ep"
