"""TSP-FCOS, ResNet-50, 36 epochs of COCO at batch 16 (270,000 iterations), as its authors' script trains it."""

from detrex_ext import get_config

_data = get_config("common/data/coco_detr.py")
dataset, dataloader = _data.dataset, _data.dataloader
model = get_config("common/models/tsp_fcos_r50.py").model
optimizer = get_config("common/optim.py").SGDAndAdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
train = get_config("common/train.py").train

train.output_dir = "./output/tsp_fcos_r50_3x"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 270_000
# the transformer alone has AdamW, at 1e-4, and is clipped; all else has SGD
train.clip_grad.update(enabled=True, only=optimizer.params.adamw)
train.clip_grad.params.max_norm = 0.01

lr_multiplier.warmup_iters = 1000
lr_multiplier.scheduler.update(milestones=[180_000, 240_000], end=train.max_iter)

_flip, _resize = dataloader.train.mapper.augmentation
_resize.short_edge_length = [640, 672, 704, 736, 768, 800]
dataloader.train.mapper.augmentation_with_crop = None

optimizer.lr = 0.01
dataloader.train.total_batch_size = 16
dataloader.train.num_workers = 16
