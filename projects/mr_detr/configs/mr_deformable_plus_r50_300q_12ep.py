"""Deformable-DETR++ with multi-route training (Mr. DETR), 300 queries, ResNet-50, 12 epochs of COCO at batch 16."""

from .mr_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries.num_queries = 300
train.output_dir = "./output/mr_deformable_plus_r50_300q_12ep"
