"""AdaMixer, ResNet-50, 100 queries, 12 epochs of COCO at batch 16."""

from detrex_ext import get_config

_data = get_config("common/data/coco_detr.py")
dataset, dataloader = _data.dataset, _data.dataloader
model = get_config("common/models/adamixer_r50.py").model
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

# one scale and flips; the crops come with longer schedules
_flip, _resize = dataloader.train.mapper.augmentation
_resize.short_edge_length = 800
dataloader.train.mapper.augmentation_with_crop = None

# one learning rate and one weight decay for everything, backbone and norms too
optimizer.lr = 2.5e-5
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = None
lr_multiplier.scheduler.update(milestones=[8, 11], end=12)
lr_multiplier.warmup_iters = 500

train.output_dir = "./output/adamixer_r50_12ep"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 87960  # 12 epochs of 7,330 iterations
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 1.0
