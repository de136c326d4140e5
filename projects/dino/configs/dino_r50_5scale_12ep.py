"""DINO, five scales (from stride 4), ResNet-50, 12 epochs of COCO at batch 16."""

from .dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.neck.in_channels = dict(res2=256, res3=512, res4=1024, res5=2048)
model.num_levels = 5
train.output_dir = "./output/dino_r50_5scale_12ep"
