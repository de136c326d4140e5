"""AdaMixer, 100 queries, with divide and conquer, ResNet-50, 12 epochs of COCO at batch 16.

All boxes start as the whole image, so that queries tie: each answers for one object.
"""

from detrex_ext import get_config

from ...adamixer.configs.adamixer_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.dac = get_config("common/strategies.py").dac
model.strategies.dac.matcher.conflict = "best"
train.output_dir = "./output/dac_adamixer_r50_12ep"
