"""DAB-DETR-DC5 with three patterns to each anchor, ResNet-50, 50 epochs of COCO at batch 16."""

from .dab_detr_r50_dc5_50ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries.num_patterns = 3
model.encoder.temperature = 20.0
train.output_dir = "./output/dab_detr_r50_dc5_3patterns_50ep"
