"""AdaMixer, ResNet-101, 300 queries, seven stages, 36 epochs, with selective query recollection: 53 sets."""

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection

from ...adamixer.configs.adamixer_r101_300q_36ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.decoder.num_layers = 7
model.strategies.sqr = L(QueryRecollection)(window=2, start_stage=1)
train.output_dir = "./output/adamixer_r101_7stages_36ep_sqr"
