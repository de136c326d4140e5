"""TSP-RCNN, ResNet-50, 36 epochs of COCO at batch 16 (270,000 iterations), as its authors' script trains it."""

from detrex_ext import get_config

from .tsp_fcos_r50_3x import dataloader, dataset, lr_multiplier, optimizer, train

model = get_config("common/models/tsp_rcnn_r50.py").model

optimizer.lr = 0.02  # the transformer's stays 1e-4
train.output_dir = "./output/tsp_rcnn_r50_3x"
