"""DINO, four scales, ResNet-50, 12 epochs of COCO, with DEIM's data and schedule: mosaic, mixup, flat-cosine."""

from omegaconf import OmegaConf

from detrex_ext.config import apply_overlay

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

_cfg = dict(dataset=dataset, dataloader=dataloader, lr_multiplier=lr_multiplier)
_cfg = apply_overlay(OmegaConf.create(_cfg, flags={"allow_objects": True}), "dense_o2o", copy_blend=0.0)
dataset, dataloader, lr_multiplier = _cfg.dataset, _cfg.dataloader, _cfg.lr_multiplier
lr_multiplier.warmup_iters = 2000
train.output_dir = "./output/dense_o2o_dino_r50_4scale_12ep"
