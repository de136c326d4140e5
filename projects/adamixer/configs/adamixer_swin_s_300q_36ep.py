"""AdaMixer, Swin-S (window 7, ImageNet-1k at 224 px), 300 queries, 36 epochs of COCO at batch 16."""

from detrex_ext.modeling.backbones import SwinTransformer
from detrex_ext.runtime import LazyCall as L

from .adamixer_r50_300q_36ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone = L(SwinTransformer)(
    dim=96,
    depths=[2, 2, 18, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    out_features=["res2", "res3", "res4", "res5"],
    drop_path=0.2,
)
model.neck.in_channels = dict(res2=96, res3=192, res4=384, res5=768)
# published with decay on the neck's norm and on those of the two towers; here no norm has any
optimizer.params.weight_decay_norm = 0.0
optimizer.params.overrides = {"relative_position_bias_table": dict(weight_decay=0.0)}
lr_multiplier.warmup_iters = 1000
train.init_checkpoint = (
    "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"
)
train.output_dir = "./output/adamixer_swin_s_300q_36ep"
