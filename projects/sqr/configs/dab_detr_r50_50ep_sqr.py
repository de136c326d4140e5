"""DAB-DETR, ResNet-50, 50 epochs, with selective query recollection: 32 sets."""

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection

from ...dab_detr.configs.dab_detr_r50_50ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.sqr = L(QueryRecollection)(window=2, start_stage=1)
train.output_dir = "./output/dab_detr_r50_50ep_sqr"
