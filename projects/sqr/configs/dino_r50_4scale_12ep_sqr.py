"""DINO, four scales, ResNet-50, 12 epochs, with selective query recollection: 32 sets; denoising stays on its path."""

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.sqr = L(QueryRecollection)(window=2, start_stage=1)
train.output_dir = "./output/dino_r50_4scale_12ep_sqr"
