"""How many queries gather at an object, by checkpoint and by stage."""

from .counting import AFFINITIES, QueriesPerObject, affinity
from .evaluator import STREAMS, QueryEvaluator, Streams
from .report import QueryReport, draw_queries

__all__ = [
    "AFFINITIES",
    "STREAMS",
    "QueriesPerObject",
    "QueryEvaluator",
    "QueryReport",
    "Streams",
    "affinity",
    "draw_queries",
]
