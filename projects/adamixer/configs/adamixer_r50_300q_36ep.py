"""AdaMixer, ResNet-50, 300 queries, random scales and crops, 36 epochs of COCO at batch 16."""

from detrex_ext import get_config

from .adamixer_r50_12ep import lr_multiplier, model, optimizer, train

_data = get_config("common/data/coco_detr.py")
dataset, dataloader = _data.dataset, _data.dataloader
dataloader.train.mapper.augmentation_with_crop[1].max_size = 1333

model.queries.num_queries = model.postprocess.top_k = 300
lr_multiplier.scheduler.update(milestones=[24, 33], end=36)

train.output_dir = "./output/adamixer_r50_300q_36ep"
train.max_iter = 263880  # 36 epochs of 7,330 iterations
