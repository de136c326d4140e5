"""AdaMixer, ResNet-50, 100 queries, 12 epochs, with selective query recollection: 32 sets instead of 6."""

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection

from ...adamixer.configs.adamixer_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.sqr = L(QueryRecollection)(window=2, start_stage=1)
train.output_dir = "./output/adamixer_r50_12ep_sqr"
