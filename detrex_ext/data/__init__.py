"""COCO reading and checking, transforms, samplers, loaders and the generated "shapes" data set."""

from detrex_ext.data.affine import RandomAffine, RandomChannelGain
from detrex_ext.data.build import build_test_loader, build_train_loader
from detrex_ext.data.check_set import check_before_training, check_dataset, check_same_classes
from detrex_ext.data.coco import CocoDataset
from detrex_ext.data.color import RandomColor
from detrex_ext.data.copy_blend import CopyBlend
from detrex_ext.data.ground_truth import GroundTruth, read_classes
from detrex_ext.data.mapper import DetrMapper
from detrex_ext.data.mixing import MixUp, Mosaic
from detrex_ext.data.phases import During
from detrex_ext.data.records import Classes, RecordDataset
from detrex_ext.data.transforms import RandomCrop, RandomFlip, RandomTranspose, Resize, ResizeShortestEdge

__all__ = [
    "Classes",
    "CocoDataset",
    "CopyBlend",
    "DetrMapper",
    "During",
    "GroundTruth",
    "MixUp",
    "Mosaic",
    "RandomAffine",
    "RandomChannelGain",
    "RandomColor",
    "RandomCrop",
    "RandomFlip",
    "RandomTranspose",
    "RecordDataset",
    "Resize",
    "ResizeShortestEdge",
    "build_test_loader",
    "build_train_loader",
    "check_before_training",
    "check_dataset",
    "check_same_classes",
    "read_classes",
]
