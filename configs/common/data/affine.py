"""Any COCO-format data set in small images, with augmentation for training from nothing.

Images are resized once (short side `dataset.short_edge`, long side at most `dataset.long_edge`) and kept in memory.
"""

from omegaconf import OmegaConf

from detrex_ext.data import (
    CocoDataset,
    DetrMapper,
    MixUp,
    Mosaic,
    RandomAffine,
    RandomChannelGain,
    RandomFlip,
    RandomTranspose,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
)
from detrex_ext.evaluation import CocoEvaluator
from detrex_ext.runtime import LazyCall as L

# A data set of one's own: override the four paths, and the size. An empty image folder is looked for beside the JSON.
dataset = OmegaConf.create(
    dict(
        train_json="",
        train_images="",
        val_json="",
        val_images="",
        outside_images=False,
        short_edge=192,
        long_edge=256,
        # shares of the samples, until this progress of the training
        mosaic=0.0,
        mixup=0.0,
        plain_from=0.8,
    )
)

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(CocoDataset)(
        json="${dataset.train_json}",
        images="${dataset.train_images}",
        filter_empty=False,
        outside_images="${dataset.outside_images}",
    ),
    mapper=L(DetrMapper)(
        augmentation=[
            # Not random, so its result is what the cache keeps.
            L(ResizeShortestEdge)(short_edge_length="${dataset.short_edge}", max_size="${dataset.long_edge}"),
            L(Mosaic)(prob="${dataset.mosaic}", until="${dataset.plain_from}"),
            L(MixUp)(prob="${dataset.mixup}", until="${dataset.plain_from}"),
            L(RandomFlip)(prob=0.5, horizontal=True),
            L(RandomFlip)(prob=0.5, horizontal=False, vertical=True),
            L(RandomTranspose)(prob=0.5),
            L(RandomChannelGain)(gain=0.15, shift=0.2),
            L(RandomAffine)(scale=(0.75, 1.3), aspect=0.1, translate=0.1, min_visible=0.35),
        ],
        is_train=True,
    ),
    total_batch_size=8,
    num_workers=0,
    aspect_ratio_grouping=True,
    max_unreadable=0,
    cache=True,
    seed="${train.seed}",
)

dataloader.test = L(build_test_loader)(
    dataset=L(CocoDataset)(
        json="${dataset.val_json}",
        images="${dataset.val_images}",
        outside_images="${dataset.outside_images}",
    ),
    mapper=L(DetrMapper)(
        augmentation=[
            L(ResizeShortestEdge)(short_edge_length="${dataset.short_edge}", max_size="${dataset.long_edge}")
        ],
        is_train=False,
    ),
    num_workers=0,
    batch_size=8,
    cache=True,
)

dataloader.evaluator = L(CocoEvaluator)(json="${dataset.val_json}")
