"""AdaMixer, ResNet-50, 100 queries, 12 epochs, dense recollection with a recurrent last stage: 95 sets.

Inference runs that one stage five times from the initial queries.
"""

from .adamixer_r50_12ep_dqr import dataloader, dataset, lr_multiplier, model, optimizer, train

model.strategies.sqr.repeat_last = True
model.decoder.eval_order = [5, 5, 5, 5, 5]
train.output_dir = "./output/adamixer_r50_12ep_dqrr"
