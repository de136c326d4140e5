"""Encoders: features of a neck -> memory."""

from .atss import ATSSHead
from .deformable import DeformableEncoder
from .dense import DenseEncoder
from .flatten import FlattenEncoder
from .foi import FoIEncoder
from .roi import RoIEncoder
from .roi_head import RoIHead
from .rpn import RPN

__all__ = [
    "RPN",
    "ATSSHead",
    "DeformableEncoder",
    "DenseEncoder",
    "FlattenEncoder",
    "FoIEncoder",
    "RoIEncoder",
    "RoIHead",
]
