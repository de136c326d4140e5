"""One-to-one matching by minimal total cost.

Shape legend: N sets, B images, Q queries of a set, G objects of the batch (flat), M most objects of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrex_ext.structures import Assignment, Targets

from . import on_device
from .base import HostProblem, Matcher
from .costs import Cost, FocalClassCost, GIoUCost, L1Cost, SoftmaxClassCost, candidates
from .on_device import NEVER
from .stack import Stack

CACHED = 1 << 17  # values of one temporary that a CPU core's cache holds beside the others


class HungarianMatcher(Matcher):
    """The assignment of least total cost, for every image of every set on its own (DETR, arXiv 2005.12872, eq. 1).

    Args:
        costs: terms of the cost; when given, the other arguments are not used.
        cost_class, cost_bbox, cost_giou: weights of the usual three terms, by detrex's names.
        cost_class_type: ``"focal_loss_cost"`` or ``"ce_cost"``.
        alpha, gamma: of the focal cost.
        cut: from this many queries per object on, only each object's cheapest queries go to the host. With M objects
            its M cheapest are enough: were an object given another one, the other M - 1 objects could not hold all of
            those, and a free one costs no more. None: 16 on an accelerator, never on the CPU, where nothing
            travels and the selection takes longer than it saves.
        solver: ``scipy``, on the host; ``triton``, a kernel on a GPU, which finds the same pairs and for which nothing
            waits; ``auto``: the kernel where it can run, SciPy elsewhere.
    """

    def __init__(
        self,
        costs: Iterable[Cost] | None = None,
        cost_class: float = 1.0,
        cost_bbox: float = 1.0,
        cost_giou: float = 1.0,
        cost_class_type: str = "focal_loss_cost",
        alpha: float = 0.25,
        gamma: float = 2.0,
        cut: int | None = None,
        solver: str = "auto",
    ) -> None:
        if solver not in on_device.SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(on_device.SOLVERS)}, not {solver!r}")
        if costs is None:
            if cost_class_type not in ("focal_loss_cost", "ce_cost"):
                raise ValueError(f"cost_class_type must be 'focal_loss_cost' or 'ce_cost', not {cost_class_type!r}")
            focal = cost_class_type == "focal_loss_cost"
            by_class = FocalClassCost(cost_class, alpha, gamma) if focal else SoftmaxClassCost(cost_class)
            costs = (by_class, L1Cost(cost_bbox), GIoUCost(cost_giou))
        self.costs = tuple(costs)
        if not self.costs:
            raise ValueError("HungarianMatcher needs at least one cost")
        self.cut, self.solver = cut, solver

    def __repr__(self) -> str:
        return f"HungarianMatcher(costs={list(self.costs)})"

    @torch.no_grad()
    def match(self, stack: Stack, targets: Targets) -> Assignment | HostProblem:
        """See :meth:`Matcher.match`. Queries that the source marked invalid are never matched.

        ``solve`` of the returned problem raises ``FloatingPointError`` if a cost is NaN or infinite.
        """
        N, _, Q, _ = stack.shape
        most = max(targets.counts, default=0)
        if not most or not Q:
            return HostProblem([], lambda arrays: np.zeros((4, 0), np.int64))
        cost_NGQ = self.cost(stack, targets)
        if stack.given.valid_BQ is not None:
            cost_NGQ = cost_NGQ.masked_fill(~stack.given.valid_BQ[targets.image_G], NEVER)
        if on_device.chosen(self.solver, cost_NGQ, targets.counts):
            return on_device.assignment(cost_NGQ, targets)
        cut = (None if cost_NGQ.device.type == "cpu" else 16) if self.cut is None else self.cut
        if cut is None or Q < max(cut, 1) * most:
            return HostProblem([cost_NGQ], lambda arrays: _solve(stack, targets.counts, arrays[0]))
        cheapest, query = cost_NGQ.topk(most, dim=-1, largest=False, sorted=False)
        return HostProblem([cheapest, query.int()], lambda arrays: _solve(stack, targets.counts, *arrays))

    @torch.no_grad()
    def cost(self, stack: Stack, targets: Targets) -> Tensor:
        """(N, G, Q) total cost of every object and every query of its image."""
        N, _, Q, _ = stack.shape
        # on a CPU some objects at a time, so that the temporaries stay in its cache
        apart = stack.device.type == "cpu" and not any(cost.whole for cost in self.costs)
        step = max(1, CACHED // max(1, N * Q)) if apart else max(1, targets.num)
        total_NGQ = stack.boxes_NBQ4.new_empty(N, targets.num, Q)
        for start in range(0, targets.num, step):
            rows = slice(start, start + step)
            seen = candidates(stack, targets, rows)
            first, *rest = (cost(seen) for cost in self.costs)
            for value in rest:
                first = first + value
            total_NGQ[:, rows] = first
        return total_NGQ


def _solve(
    stack: Stack, counts: Sequence[int], cost_NGC: np.ndarray, query_NGC: np.ndarray | None = None
) -> np.ndarray:
    """Pairs (4, P) of all sets and images, queries ascending within an image.

    Args:
        stack: the sets, for their names.
        counts: objects of each image.
        cost_NGC: costs of C candidates of each object; all queries in order where ``query_NGC`` is None.
        query_NGC: the query of each candidate.
    """
    ends = np.cumsum(counts)
    blocks = [(b, slice(end - c, end)) for b, (end, c) in enumerate(zip(ends, counts, strict=True)) if c]
    _check_finite(stack, blocks, cost_NGC)
    found = []
    for n, cost_GC in enumerate(cost_NGC):
        for image, rows in blocks:
            gt, query = _optimum(cost_GC[rows], None if query_NGC is None else query_NGC[n, rows])
            pairs = np.empty((4, len(gt)), np.int64)
            pairs[0], pairs[1], pairs[2], pairs[3] = n, image, query, gt + rows.start
            found.append(pairs)
    return np.concatenate(found, axis=1)


def _optimum(cost_GC: np.ndarray, query_GC: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Objects and queries of one image's best assignment, queries ascending, without pairs that may not be."""
    queries = None
    if query_GC is not None:
        # an object's own candidates only: infinite cost elsewhere, which the solver never takes
        queries, column = np.unique(query_GC, return_inverse=True)
        dense = np.full((len(cost_GC), len(queries)), np.inf)
        np.put_along_axis(dense, column.reshape(cost_GC.shape), cost_GC, axis=1)
        cost_GC = dense
    gt, column = linear_sum_assignment(cost_GC)
    allowed = cost_GC[gt, column] < NEVER / 2
    if not allowed.all():
        gt, column = gt[allowed], column[allowed]
    query = column if queries is None else queries[column]
    order = query.argsort()
    return gt[order], query[order]


def _check_finite(stack: Stack, blocks: list[tuple[int, slice]], cost_NGC: np.ndarray) -> None:
    """One message that says where, instead of the solver's."""
    if np.isfinite(cost_NGC).all():
        return
    n = int((~np.isfinite(cost_NGC)).any(axis=(1, 2)).argmax())
    image = next(b for b, rows in blocks if not np.isfinite(cost_NGC[n, rows]).all())
    raise FloatingPointError(
        f"the matching cost of {stack.name(n)}, image {image} of the batch is NaN or infinite: "
        "the model's logits or boxes, or the ground truth, are not finite"
    )
