"""DINO, four scales, Swin-L (window 12, ImageNet-22k at 384 px), 12 epochs of COCO at batch 16.

`train.init_checkpoint` must name the authors' file, `swin_large_patch4_window12_384_22kto1k.pth`.
"""

from detrex_ext.modeling.backbones import SwinTransformer
from detrex_ext.runtime import LazyCall as L

from .dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone = L(SwinTransformer)(
    dim=192,
    depths=[2, 2, 18, 2],
    num_heads=[6, 12, 24, 48],
    window_size=12,
    out_features=["res3", "res4", "res5"],
    drop_path=0.2,
    checkpoint=False,
)
model.neck.in_channels = dict(res3=384, res4=768, res5=1536)
train.init_checkpoint = ""
train.output_dir = "./output/dino_swin_large_384_4scale_12ep"
