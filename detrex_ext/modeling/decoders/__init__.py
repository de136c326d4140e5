"""Decoders on the staged protocol."""

from .adamixer import AdaMixerDecoder
from .dab import DABDecoder
from .deformable import DeformableDecoder
from .detr import DETRDecoder
from .region_head import RegionHead
from .set_head import FCOSHead, SetHead, TokenHead
from .staged import StagedDecoder

__all__ = [
    "AdaMixerDecoder",
    "DABDecoder",
    "DETRDecoder",
    "DeformableDecoder",
    "FCOSHead",
    "RegionHead",
    "SetHead",
    "StagedDecoder",
    "TokenHead",
]
