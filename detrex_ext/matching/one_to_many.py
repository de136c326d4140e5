"""One-to-many matching with a threshold: DAC-DETR's rule, and DETA's.

Shape legend: N sets, B images, Q queries of a set, G objects of the batch (flat), M most objects of an image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from detrex_ext.structures import Targets

from .costs import candidates
from .score_matcher import NEVER, ScoreMatcher
from .stack import Stack


class OneToManyMatcher(ScoreMatcher):
    """DAC-DETR's rule: an object is answered for by its best queries, as many as prefer it to all other objects.

    A pair scores ``w_iou`` IoU + ``w_cls`` p. Each query belongs to the object of its image that it scores highest
    with, and is a candidate from ``threshold`` on; every object's best query is one in any case, of the object that it
    belongs to. An object with n candidates takes the best min(n, k) of *all* queries. One without any takes none.

    DETA's rule (arXiv 2212.06137, section 3.2) looks at IoU alone, and at where queries start instead of where they
    end: ``k=4, threshold=0.6, w_iou=1, w_cls=0, cap=0.25, boxes="prior"``, and for the encoder's proposals
    ``threshold=0.7, cap=128``.

    Ties, precision, places: see :class:`ScoreMatcher`.

    Args:
        k, conflict, tau, alpha: see :class:`ScoreMatcher`.
        threshold: least score of a candidate.
        w_iou, w_cls: weights of the two parts of a score.
        cap: at most this many candidates per image, drawn at random: how many queries an object takes may change, not
            which come first. Below 1: a share of the set's queries. None: no limit.
        boxes: whose IoU counts. ``"predicted"``: that of the set's boxes, or of its ``match_boxes`` where it names
            any. ``"prior"``: that of the boxes its source began with, a two-stage source's anchors and first
            references. Group queries have no prior: each of their groups began with boxes of its own.
    """

    def __init__(
        self,
        k: int = 6,
        threshold: float = 0.4,
        w_iou: float = 0.7,
        w_cls: float = 0.3,
        cap: float | None = 75,
        conflict: str = "multi",
        tau: float | None = None,
        alpha: float = 0.25,
        boxes: str = "predicted",
    ) -> None:
        super().__init__(k, conflict, tau, alpha)
        if cap is not None and cap <= 0:
            raise ValueError(f"cap must be positive, or None for no limit, got {cap}")
        if threshold < 0 or w_iou < 0 or w_cls < 0:
            raise ValueError(f"threshold, w_iou and w_cls must not be negative, got {threshold}, {w_iou} and {w_cls}")
        if boxes not in ("predicted", "prior"):
            raise ValueError(f"boxes must be 'predicted' or 'prior', got '{boxes}'")
        self.threshold, self.w_iou, self.w_cls, self.cap, self.boxes = threshold, w_iou, w_cls, cap, boxes

    def score(self, stack: Stack, targets: Targets) -> Tensor:
        """See :meth:`ScoreMatcher.score`.

        Raises:
            ValueError: with ``boxes="prior"``, if the source of a set names no boxes, or of other queries.
        """
        if self.boxes == "prior":
            first_BQ4 = None if stack.given.prior is None else stack.given.prior.boxes_BQ4
            if first_BQ4 is None or first_BQ4.shape != stack.boxes_NBQ4.shape[1:]:
                raise ValueError(
                    f"OneToManyMatcher(boxes='prior'): the source of {stack.name(0)} does not say which boxes its "
                    f"{stack.shape[2]} queries begin with. TwoStageQueries does, of its own and of hybrid queries, not "
                    "of group queries, nor of those that Queries.pick chose. Use boxes='predicted'"
                )
            stack = replace(stack, match_boxes_NBQ4=first_BQ4.to(stack.boxes_NBQ4.dtype).expand_as(stack.boxes_NBQ4))
        seen = candidates(stack, targets)
        score_NGQ = self.w_iou * seen.iou(eps=0.0)
        return score_NGQ + self.w_cls * seen.prob() if self.w_cls else score_NGQ

    def counts(self, score_NGQ: Tensor, targets: Targets) -> Tensor:
        """(N, G) candidates that belong to each object."""
        (N, G, Q), image_G = score_NGQ.shape, targets.image_G
        within_G = torch.arange(G, device=image_G.device) - targets.offsets_B[image_G]
        score_NBMQ = score_NGQ.new_full((N, len(targets.counts), max(targets.counts), Q), NEVER)
        score_NBMQ[:, image_G, within_G] = score_NGQ
        best_NBQ, owner_NBQ = score_NBMQ.max(2)  # the first of equal ones
        chosen_NBQ = best_NBQ >= self.threshold
        sets = torch.arange(N, device=image_G.device)[:, None]
        yes = torch.ones((), dtype=torch.bool, device=image_G.device)  # a number of the host would be waited for
        chosen_NBQ[sets, image_G, score_NGQ.argmax(-1)] = yes
        chosen_NBQ &= best_NBQ > NEVER
        cap = Q if self.cap is None else int(self.cap) if self.cap >= 1 else max(1, int(self.cap * Q))
        if cap < Q:
            lot = torch.rand(best_NBQ.shape, device=image_G.device).masked_fill_(~chosen_NBQ, NEVER)
            drawn = torch.zeros_like(chosen_NBQ).scatter_(2, lot.topk(cap, -1).indices, True)
            chosen_NBQ &= drawn
        count_NBM = owner_NBQ.new_zeros(score_NBMQ.shape[:3]).scatter_add_(2, owner_NBQ, chosen_NBQ.long())
        return count_NBM[:, image_G, within_G]
