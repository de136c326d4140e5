"""Whether an object is matched with the same query in one checkpoint and the next."""

from .evaluator import MatchEvaluator
from .matches import Matches, changed

__all__ = ["MatchEvaluator", "Matches", "changed"]
