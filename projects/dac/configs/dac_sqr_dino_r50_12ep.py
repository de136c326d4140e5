"""DINO, four scales, with query recollection and divide and conquer, ResNet-50, 12 epochs of COCO at batch 16.

The plain path alone has an auxiliary set; recollected sets have none.
"""

from detrex_ext import get_config
from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection

from ...dino.configs.dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.sqr = L(QueryRecollection)(window=2, start_stage=1)
model.strategies.dac = get_config("common/strategies.py").dac
train.output_dir = "./output/dac_sqr_dino_r50_12ep"
