"""Query sources: where a decoder's initial queries come from."""

from .anchors import AnchorQueries
from .base import QuerySource
from .denoising import DenoisingQueries
from .learned import LearnedQueries, PositionQueries
from .two_stage import TwoStageQueries
from .whole_image import WholeImageQueries

__all__ = [
    "AnchorQueries",
    "DenoisingQueries",
    "LearnedQueries",
    "PositionQueries",
    "QuerySource",
    "TwoStageQueries",
    "WholeImageQueries",
]
