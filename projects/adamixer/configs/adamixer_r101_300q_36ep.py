"""AdaMixer, ResNet-101, 300 queries, random scales and crops, 36 epochs of COCO at batch 16."""

from .adamixer_r50_300q_36ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.init_checkpoint = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
train.output_dir = "./output/adamixer_r101_300q_36ep"
