"""DAB-DETR-DC5: the last stage of the ResNet-50 at stride 16, 50 epochs of COCO at batch 16."""

from .dab_detr_r50_50ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.dilate_res5 = True
model.backbone.freeze_at = 2
model.encoder.temperature = 10.0
train.init_checkpoint = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
train.output_dir = "./output/dab_detr_r50_dc5_50ep"
