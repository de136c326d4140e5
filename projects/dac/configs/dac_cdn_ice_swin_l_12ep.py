"""The released recipe of DAC-DETR, Swin-L, 12 epochs of COCO at batch 16.

`train.init_checkpoint` must name the authors' file, `swin_large_patch4_window12_384_22k.pth`.
"""

from .dac_cdn_ice_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train
from .dac_cdn_swin_l_12ep import model as _large

model.backbone, model.neck = _large.backbone, _large.neck
train.init_checkpoint = ""
train.output_dir = "./output/dac_cdn_ice_swin_l_12ep"
