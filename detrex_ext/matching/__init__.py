"""Who answers for which object: costs and matchers."""

from .base import HostProblem, Matcher, resolve
from .by_score import ScoreMatcher, aligned_quality
from .costs import Candidates, Cost, FocalClassCost, GIoUCost, L1Cost, SoftmaxClassCost
from .fixed_number import RepeatedMatcher, TopKMatcher
from .given import GivenMatcher
from .hungarian import HungarianMatcher
from .one_to_many import OneToManyMatcher
from .stack import Stack, stack_sets

__all__ = [
    "Candidates",
    "Cost",
    "FocalClassCost",
    "GIoUCost",
    "GivenMatcher",
    "HostProblem",
    "HungarianMatcher",
    "L1Cost",
    "Matcher",
    "OneToManyMatcher",
    "RepeatedMatcher",
    "ScoreMatcher",
    "SoftmaxClassCost",
    "Stack",
    "TopKMatcher",
    "aligned_quality",
    "resolve",
    "stack_sets",
]
