"""Decoders on the staged protocol."""

from .deformable import DeformableDecoder
from .staged import StagedDecoder

__all__ = ["DeformableDecoder", "StagedDecoder"]
