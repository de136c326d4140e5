"""TSP-RCNN, ResNet-101, 36 epochs of COCO at batch 16 (270,000 iterations)."""

from .tsp_rcnn_r50_3x import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.output_dir = "./output/tsp_rcnn_r101_3x"
