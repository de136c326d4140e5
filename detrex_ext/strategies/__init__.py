"""Training strategies: overlays on any staged decoder. They vanish at inference, with whatever they own."""

from .base import Strategy
from .collaborative import CollaborativeHeads
from .divide_and_conquer import DivideAndConquer
from .mixed_supervision import MixedSupervision
from .multi_route import MultiRoute
from .recollection import QueryRecollection
from .stochastic_depth import StochasticDepth

__all__ = [
    "CollaborativeHeads",
    "DivideAndConquer",
    "MixedSupervision",
    "MultiRoute",
    "QueryRecollection",
    "StochasticDepth",
    "Strategy",
]
