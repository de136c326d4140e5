"""AdaMixer, ResNet-50, 100 queries, 12 epochs, with dense query recollection: 63 sets."""

from .adamixer_r50_12ep_sqr import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.sqr.window = None
train.output_dir = "./output/adamixer_r50_12ep_dqr"
