"""COCO 2017 with DETR's augmentation: two random scales with or without a crop, horizontal flip."""

import os

from omegaconf import OmegaConf

from detrex_ext.data import (
    CocoDataset,
    DetrMapper,
    RandomCrop,
    RandomFlip,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
)
from detrex_ext.evaluation import CocoEvaluator
from detrex_ext.runtime import LazyCall as L

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "coco")
_shortest_edges = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)

# A data set of one's own: override these four paths.
dataset = OmegaConf.create(
    dict(
        train_json=os.path.join(_root, "annotations", "instances_train2017.json"),
        train_images=os.path.join(_root, "train2017"),
        val_json=os.path.join(_root, "annotations", "instances_val2017.json"),
        val_images=os.path.join(_root, "val2017"),
        outside_images=False,
    )
)

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(CocoDataset)(
        json="${dataset.train_json}",
        images="${dataset.train_images}",
        filter_empty=True,
        outside_images="${dataset.outside_images}",
    ),
    mapper=L(DetrMapper)(
        augmentation=[
            L(RandomFlip)(),
            L(ResizeShortestEdge)(short_edge_length=_shortest_edges, max_size=1333),
        ],
        augmentation_with_crop=[
            L(RandomFlip)(),
            L(ResizeShortestEdge)(short_edge_length=(400, 500, 600)),
            L(RandomCrop)(crop_type="absolute_range", crop_size=(384, 600)),
            L(ResizeShortestEdge)(short_edge_length=_shortest_edges, max_size=1333),
        ],
        is_train=True,
    ),
    total_batch_size=16,
    num_workers=4,
    aspect_ratio_grouping=True,
    max_unreadable=0,
    cache=False,
    seed="${train.seed}",
)

dataloader.test = L(build_test_loader)(
    dataset=L(CocoDataset)(
        json="${dataset.val_json}",
        images="${dataset.val_images}",
        outside_images="${dataset.outside_images}",
    ),
    mapper=L(DetrMapper)(
        augmentation=[L(ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        is_train=False,
    ),
    num_workers=4,
    batch_size=1,
)

dataloader.evaluator = L(CocoEvaluator)(json="${dataset.val_json}")
