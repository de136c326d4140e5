"""Decoders on the staged protocol."""

from .dab import DABDecoder
from .deformable import DeformableDecoder
from .detr import DETRDecoder
from .staged import StagedDecoder

__all__ = ["DABDecoder", "DETRDecoder", "DeformableDecoder", "StagedDecoder"]
