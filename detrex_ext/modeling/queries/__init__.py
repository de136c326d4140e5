"""Query sources: where a decoder's initial queries come from."""

from .base import QuerySource
from .denoising import DenoisingQueries
from .learned import LearnedQueries
from .two_stage import TwoStageQueries

__all__ = ["DenoisingQueries", "LearnedQueries", "QuerySource", "TwoStageQueries"]
