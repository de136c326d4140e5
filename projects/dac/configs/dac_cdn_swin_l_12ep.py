"""Deformable-DETR++ with 900 queries, denoising and divide and conquer, Swin-L, 12 epochs of COCO at batch 16.

`train.init_checkpoint` must name the authors' file, `swin_large_patch4_window12_384_22k.pth`.
"""

from detrex_ext.modeling.backbones import SwinTransformer
from detrex_ext.runtime import LazyCall as L

from .dac_cdn_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone = L(SwinTransformer)(
    dim=192,
    depths=[2, 2, 18, 2],
    num_heads=[6, 12, 24, 48],
    window_size=12,
    out_features=["res3", "res4", "res5"],
    drop_path=0.2,
    checkpoint=True,
)
model.neck.in_channels = dict(res3=384, res4=768, res5=1536)
train.init_checkpoint = ""
train.output_dir = "./output/dac_cdn_swin_l_12ep"
