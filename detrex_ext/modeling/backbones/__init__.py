"""Backbones: images in, feature maps by detectron2's names (``res2`` .. ``res5``) out."""

from .basic import BasicResNet
from .blocks import ConvNorm, FrozenBatchNorm2d
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .swap import swap_backbone
from .swin import SwinTransformer
from .timm import TimmBackbone

__all__ = [
    "BasicResNet",
    "ConvNorm",
    "FrozenBatchNorm2d",
    "MobileNetV2",
    "ResNet",
    "SwinTransformer",
    "TimmBackbone",
    "swap_backbone",
]
