"""AdaMixer, ResNeXt-101 32x4d with deformable convolutions, 300 queries, 36 epochs of COCO at batch 16."""

from .adamixer_r50_300q_36ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.update(depth=101, groups=32, width_per_group=4, deform_stages=["res3", "res4", "res5"])
train.init_checkpoint = "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth"
train.output_dir = "./output/adamixer_x101_dcn_300q_36ep"
