"""DETR-DC5: the last stage of the ResNet-50 at stride 16, 300 epochs of COCO at batch 64."""

from .detr_r50_300ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.dilate_res5 = True
model.backbone.freeze_at = 2
train.init_checkpoint = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
train.output_dir = "./output/detr_r50_dc5_300ep"
