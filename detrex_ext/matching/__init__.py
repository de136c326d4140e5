"""Who answers for which object: costs and matchers."""

from .base import HostProblem, Matcher, resolve
from .costs import Candidates, Cost, FocalClassCost, GIoUCost, L1Cost, SoftmaxClassCost, candidates
from .fcos_matcher import FCOSMatcher
from .fixed_number import RepeatedMatcher, TopKMatcher
from .given import GivenMatcher
from .hungarian import HungarianMatcher
from .late import LateMatcher
from .one_to_many import OneToManyMatcher
from .quality_costs import HighOrderCost, PositionClassCost
from .restricted import RestrictedMatcher
from .roi_matcher import RoIMatcher
from .score_matcher import ScoreMatcher, aligned_quality
from .stack import Stack, stack_sets

__all__ = [
    "Candidates",
    "Cost",
    "FCOSMatcher",
    "FocalClassCost",
    "GIoUCost",
    "GivenMatcher",
    "HighOrderCost",
    "HostProblem",
    "HungarianMatcher",
    "L1Cost",
    "LateMatcher",
    "Matcher",
    "OneToManyMatcher",
    "PositionClassCost",
    "RepeatedMatcher",
    "RestrictedMatcher",
    "RoIMatcher",
    "ScoreMatcher",
    "SoftmaxClassCost",
    "Stack",
    "TopKMatcher",
    "aligned_quality",
    "candidates",
    "resolve",
    "stack_sets",
]
