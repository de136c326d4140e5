"""The least value of each segment, without a solver and without a copy to the host.

Shape legend: P entries, M segments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def first_least(segment_P: Tensor, value_P: Tensor, segments: int) -> Tensor:
    """The entry of least value of each segment, of equal ones the first.

    Args:
        segment_P: int64 segment of each entry, in [0, M]; M is for entries that are of none.
        value_P: floating values; an infinite one, or one that is not a number, is never the least.
        segments: M.

    Returns:
        (M,) int64 entries, P for a segment without any.
    """
    P = len(value_P)
    value_P = value_P.where(value_P < math.inf, math.inf)  # nor is what is not a number
    least = value_P.new_full((segments + 1,), math.inf).scatter_reduce(0, segment_P, value_P, "amin")
    entry = torch.arange(P, device=value_P.device).where((value_P == least[segment_P]) & (value_P < math.inf), P)
    return entry.new_full((segments + 1,), P).scatter_reduce(0, segment_P, entry, "amin")[:segments]
