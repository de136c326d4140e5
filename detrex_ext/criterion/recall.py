"""How many objects the chosen tokens can answer for, as a statistic of a training.

Shape legend: B images, N chosen tokens, P all points, K classes, G objects of the batch (flat).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrex_ext.runtime import comm
from detrex_ext.structures import SupervisedSet, Targets
from detrex_ext.structures.supervision import tokens_at


@torch.no_grad()
def token_recall(
    sets: Sequence[SupervisedSet], targets: Targets, effective: tuple[float, float] | None = None
) -> dict[str, Tensor]:
    """Share of the objects that have a candidate among the chosen tokens; nothing where no set has candidates.

    Without a copy to the host. An object without a candidate is not learned in this step (TSP, arXiv 2011.10881).

    Args:
        sets: of a step.
        targets: its objects.
        effective: as in :class:`~detrex_ext.criterion.SetCriterion`; shares of micro-batches then add up.

    Returns:
        ``recall/tokens``; and where points were chosen by scores, ``recall/by_score``: of as many points, chosen by
        scores alone, as at inference, where nobody knows which are candidates.
    """
    named = {(s.group, s.path, s.stage): s for s in sets if s.given.prior is not None}
    main, points = named.get(("main", "plain", 0)), named.get(("token", "plain", -1))
    if main is None or main.given.prior.candidate_gt_BQ is None or not targets.num:
        return {}
    total = targets.num if effective is None else max(effective[0], 1.0) / comm.get_world_size()
    found = {"recall/tokens": _hits(main, targets.num) / total}
    if points is None or points.given.prior.points_BQ2 is None:  # anchors are no points, and no regions either
        return found
    N, gt_BP = main.logits_BQK.shape[1], points.given.prior.candidate_gt_BQ
    if gt_BP is not None and gt_BP.shape[1] > N:
        score_BP = points.logits_BQK.detach().amax(-1)
        if points.given.valid_BQ is not None:
            score_BP = score_BP.masked_fill(~points.given.valid_BQ, -torch.inf)
        best_BN = score_BP.topk(N, 1).indices
        found["recall/by_score"] = _hit(tokens_at(gt_BP, best_BN), targets.num) / total
    return found


def _hits(s: SupervisedSet, num: int) -> Tensor:
    gt_BQ, valid_BQ = s.given.prior.candidate_gt_BQ, s.given.valid_BQ
    return _hit(gt_BQ if valid_BQ is None else gt_BQ.where(valid_BQ, -1), num)


def _hit(gt_BN: Tensor, num: int) -> Tensor:
    """Objects that are named at least once."""
    seen = torch.zeros(num + 1, device=gt_BN.device)
    return seen.index_fill(0, gt_BN.flatten() + 1, 1.0)[1:].sum()
