"""Encoders: features of a neck -> memory."""

from .deformable import DeformableEncoder
from .flatten import FlattenEncoder

__all__ = ["DeformableEncoder", "FlattenEncoder"]
