"""Deformable-DETR with iterative box refinement, ResNet-50, 50 epochs of COCO at batch 16."""

from .deformable_detr_r50_50ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.decoder.refine = True
train.output_dir = "./output/deformable_detr_r50_box_refine_50ep"
