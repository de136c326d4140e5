"""TSP-RCNN, ResNet-50, 96 epochs of COCO at batch 16 (720,000 iterations), with random crops as DETR has them.

The paper names epochs and crops; when the rate falls is not published: here at the same shares as in 36 epochs.
"""

from detrex_ext import get_config

from .tsp_rcnn_r50_3x import dataloader, dataset, lr_multiplier, model, optimizer, train

train.output_dir = "./output/tsp_rcnn_r50_96ep"
train.max_iter = 720_000
lr_multiplier.scheduler.update(milestones=[480_000, 640_000], end=train.max_iter)

_crops = get_config("common/data/coco_detr.py").dataloader.train.mapper.augmentation_with_crop
_crops[-1].short_edge_length = [640, 672, 704, 736, 768, 800]
dataloader.train.mapper.augmentation_with_crop = _crops
