"""How sparse cross-attention is, by checkpoint and by stage."""

from .entropy import negative_entropy
from .evaluator import SparsityEvaluator

__all__ = ["SparsityEvaluator", "negative_entropy"]
