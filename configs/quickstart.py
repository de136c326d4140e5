"""`small.py` on the generated shapes data set (`python -m detrex_ext.data.shapes output/shapes`), minutes on a CPU."""

from detrex_ext import get_config

from .small import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_cosine
lr_multiplier.warmup_iters = 50

dataset.update(
    train_json="output/shapes/train.json",
    train_images="output/shapes/images",
    val_json="output/shapes/val.json",
    val_images="output/shapes/images",
    short_edge=128,
    long_edge=128,
)
model.queries.source.num_queries = 40
optimizer.lr = 2e-3
train.output_dir = "./output/quickstart"
train.max_iter = 1500
train.seed = 0
