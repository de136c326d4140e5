"""Deformable-DETR++ with mixed supervision (MS-DETR), 900 queries, ResNet-50, 12 epochs of COCO at batch 16."""

from .ms_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries.num_queries = 900
model.postprocess.top_k = 300
train.output_dir = "./output/ms_deformable_plus_r50_900q_12ep"
