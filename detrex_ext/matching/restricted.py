"""One-to-one matching among candidates: each query may answer for one object at most, by where it is.

As a query has one candidate object, an object's cheapest candidate is free: the cheapest of each are the optimal
assignment, and no solver is needed (TSP, arXiv 2011.10881, section 4.3).

Shape legend: N sets, B images, Q queries of a set, G objects of the batch (flat), P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrex_ext.layers.segments import first_least
from detrex_ext.structures import Assignment, Pairs, Targets

from .base import Matcher
from .places import candidates_of
from .stack import Stack


class RestrictedMatcher(Matcher):
    """Every object takes the cheapest of its candidates; one without candidates takes none.

    The cost is minus the probability of the object's class, times :meth:`centrality`, plus ``w_giou`` (1 - GIoU).
    Equal costs: the lower index wins. One segment-argmin for the batch and all sets; nothing is copied to the host:
    places that are no pairs are marked in ``Pairs.valid_P``. Subclasses say which objects are candidates.

    Args:
        take: ``"best"``: the cheapest candidate. ``"all"``: every candidate, one-to-many and without costs.
        box_on: whose boxes are regressed, those of ``"candidates"`` or of ``"matched"`` queries alone.
        eos: weight of the class loss of candidates that are not matched. 1: as of any other negative.
        only_reweight_fg: ``eos`` is for their entry of the object's class alone; False: for all entries of all
            candidates, matched ones too.
        w_giou: weight of the boxes.
    """

    def __init__(
        self,
        take: str = "best",
        box_on: str = "candidates",
        eos: float = 0.1,
        only_reweight_fg: bool = True,
        w_giou: float = 2.0,
    ) -> None:
        if take not in ("best", "all"):
            raise ValueError(f"take must be 'best' or 'all', got '{take}'")
        if box_on not in ("candidates", "matched"):
            raise ValueError(f"box_on must be 'candidates' or 'matched', got '{box_on}'")
        if not 0 <= eos <= 1 or not 0 <= w_giou:
            raise ValueError(f"eos must be between 0 and 1 and w_giou not negative, got {eos} and {w_giou}")
        self.take, self.box_on, self.eos, self.only_reweight_fg = take, box_on, eos, only_reweight_fg
        self.w_giou = w_giou

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"

    def find(self, stack: Stack, targets: Targets) -> Tensor:
        """(B, Q) flat candidate objects, -1 for none, of a set whose source does not name them; G is at least 1."""
        raise NotImplementedError

    def centrality(self, stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor | None:
        """(B, Q) factor of the class cost, or None for ones."""
        return None

    def giou(self, stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor:
        """(N, B, Q) GIoU of each query's box with its candidate object."""
        raise NotImplementedError

    def candidates(self, stack: Stack, targets: Targets) -> Tensor:
        """(B, Q) flat objects that queries may answer for, -1 for none."""
        given_BQ = candidates_of(stack)
        if given_BQ is not None:
            return given_BQ
        found_BQ = self.find(stack, targets)
        return found_BQ if stack.given.valid_BQ is None else found_BQ.where(stack.given.valid_BQ, -1)

    def cost(self, stack: Stack, targets: Targets, gt_BQ: Tensor) -> Tensor:
        """(N, B, Q) cost of each query with its candidate object; of no meaning where it has none."""
        gt_BQ = gt_BQ.clamp(min=0)
        logits, label_BQ = stack.logits_NBQK, targets.labels_G[gt_BQ]
        logit_NBQ = logits.gather(-1, label_BQ[None, ..., None].expand(len(logits), -1, -1, 1))[..., 0]
        prob_NBQ = (logit_NBQ - logits.logsumexp(-1)).exp() if stack.softmax else logit_NBQ.sigmoid()
        factor_BQ = self.centrality(stack, targets, gt_BQ)
        prob_NBQ = prob_NBQ if factor_BQ is None else prob_NBQ * factor_BQ
        return self.w_giou * (1 - self.giou(stack, targets, gt_BQ)) - prob_NBQ

    @torch.no_grad()
    def match(self, stack: Stack, targets: Targets) -> Assignment:
        """See :meth:`Matcher.match`. Queries that the source marked invalid are never taken."""
        (N, B, Q, _), G = stack.shape, targets.num
        if not G or not Q:
            return Assignment(Pairs.empty(stack.device), Pairs.empty(stack.device))
        gt_BQ = self.candidates(stack, targets)
        every = _every_query(gt_BQ.expand(N, B, Q))
        if self.take == "all":
            return Assignment(every, every)
        segment_P = (every.set_P * G + every.gt_P).where(every.valid_P, N * G)
        row_P = first_least(segment_P, self.cost(stack, targets, gt_BQ).flatten(), N * G)
        found_P = row_P < N * B * Q
        row_P = row_P.where(found_P, 0)
        gt_P = torch.arange(G, device=stack.device).repeat(N)
        matched = Pairs(row_P // (B * Q), row_P // Q % B, row_P % Q, gt_P, None, found_P)
        assignment = Assignment(matched, every if self.box_on == "candidates" else matched)
        self._soften(assignment, every, row_P, found_P, stack)
        return assignment

    def _soften(self, assignment: Assignment, every: Pairs, row_P: Tensor, found_P: Tensor, stack: Stack) -> None:
        """Weights of candidates as negatives; a softmax has one answer per query, and a weight of its own loss."""
        if self.eos == 1 or stack.softmax:
            return
        weight = torch.ones_like(every.gt_P, dtype=stack.logits_NBQK.dtype).masked_fill(every.valid_P, self.eos)
        if not self.only_reweight_fg:
            assignment.query_weight_NBQ = weight.view(stack.shape[:3])
            return
        # one place more, for objects that are not matched
        more = torch.cat([weight, weight.new_ones(1)]).index_fill(0, row_P.where(found_P, len(weight)), 1.0)
        assignment.damp = Pairs(every.set_P, every.img_P, every.query_P, every.gt_P, more[:-1])


def _every_query(gt_NBQ: Tensor) -> Pairs:
    """A place for each query of each set, which is a pair where it has a candidate object."""
    N, B, Q = gt_NBQ.shape
    row_P = torch.arange(N * B * Q, device=gt_NBQ.device)
    gt_P = gt_NBQ.flatten()
    return Pairs(row_P // (B * Q), row_P // Q % B, row_P % Q, gt_P.clamp(min=0), None, gt_P >= 0)
