"""DINO, four scales, ResNet-50, 12 epochs of COCO at batch 16."""

from detrex_ext import get_config
from detrex_ext.engine.optim import LrFactor
from detrex_ext.runtime import LazyCall as L

_data = get_config("common/data/coco_detr.py")
dataset, dataloader = _data.dataset, _data.dataloader
model = get_config("common/models/dino_r50.py").model
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

train.output_dir = "./output/dino_r50_4scale_12ep"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 90000  # 12 epochs of 7,500 iterations
train.clip_grad.enabled = True

optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4
optimizer.params.lr_factor_func = L(LrFactor)(factors={"backbone": 0.1})

dataloader.train.total_batch_size = 16
dataloader.train.num_workers = 16
