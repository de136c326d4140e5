"""Encoders: features of a neck -> memory."""

from .deformable import DeformableEncoder
from .dense import DenseEncoder
from .flatten import FlattenEncoder
from .foi import FoIEncoder

__all__ = ["DeformableEncoder", "DenseEncoder", "FlattenEncoder", "FoIEncoder"]
