"""TSP-RCNN, ResNet-101, 96 epochs of COCO at batch 16 (720,000 iterations), with random crops as DETR has them."""

from .tsp_rcnn_r50_96ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.output_dir = "./output/tsp_rcnn_r101_96ep"
