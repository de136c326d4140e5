"""Query sources: where a decoder's initial queries come from."""

from .anchors import AnchorQueries
from .base import Extra, QuerySource, host_source
from .denoising import DenoisingQueries
from .group import GroupQueries
from .hybrid import HybridQueries
from .learned import LearnedQueries, PositionQueries
from .positive import PositiveQueries
from .token import TokenQueries
from .two_stage import TwoStageQueries
from .whole_image import WholeImageQueries
from .wrap import wrap_source

__all__ = [
    "AnchorQueries",
    "DenoisingQueries",
    "Extra",
    "GroupQueries",
    "HybridQueries",
    "LearnedQueries",
    "PositionQueries",
    "PositiveQueries",
    "QuerySource",
    "TokenQueries",
    "TwoStageQueries",
    "WholeImageQueries",
    "host_source",
    "wrap_source",
]
