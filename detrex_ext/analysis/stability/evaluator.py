"""Matches of the objects of a validation set, during an evaluation.

Shape legend: B images, Q queries of a set, S stages, G objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...criterion import Rule
from ...data.ground_truth import GroundTruth, read_ground_truth
from ...errors import UserError
from ...layers.box_ops import box_cxcywh_to_xyxy
from ...matching import resolve, stack_sets
from ...modeling.postprocess import main_sets
from ...runtime import comm
from ...structures import Prior, SupervisedSet, Targets
from ..truth import targets_of, without_candidates
from .matches import Matches


class MatchEvaluator:
    """Which query the rule of a training matches with each object, at every stage. Crowd regions are no objects.

    Images are not augmented, and the model is in evaluation mode, so that two checkpoints see the same.

    Args:
        json: COCO annotation file, or one read already.
        rule: the training's, of group ``main``; its matcher is used.
        output: ``.npz`` of the matches, see :class:`Matches`.

    Raises:
        UserError: the file is missing or has no usable categories.
    """

    needs_sets = True

    def __init__(self, json: str | Path | GroundTruth, rule: Rule, output: str | Path) -> None:
        self.truth = read_ground_truth(json)
        self.json, self.matcher, self.output = self.truth.json, rule.matcher, output
        self.class_names, self.category_ids = map(list, self.truth.classes)
        self.reset()

    def reset(self) -> None:
        """Forget all matches."""
        self.kind, self.images = "index", {}

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet],
    ) -> None:
        """Take the predictions of a batch.

        Raises:
            UserError: an image that the annotation file does not have, or a rule that does not say one query each.
        """
        images = [self.truth.index_of(given) for given in inputs]
        sizes = [output["instances"].image_size for output in outputs]
        main = [without_candidates(s) for s in main_sets(sets) if s.stage >= 0]
        targets = targets_of(self.truth, images, sizes, inputs).to(main[0].logits_BQK.device)
        self.truth.check_classes(main[0].logits_BQK.shape[-1] - main[0].softmax)
        query_SG = torch.stack([self._matched(s, targets) for s in main])
        self.kind, place_SG4 = places(main[0], query_SG, targets)
        parts = (x.cpu().split(targets.counts, 1) for x in (query_SG, place_SG4))
        for image, query, place in zip(images, *parts, strict=True):
            self.images[image] = (query.numpy(), place.numpy())

    def _matched(self, s: SupervisedSet, targets: Targets) -> Tensor:
        """(G,) query of each object, -1 for none."""
        stack = stack_sets([s])
        try:
            pairs = resolve([self.matcher.match(stack, targets)], stack.device)[0].cls
        except ValueError as error:
            raise UserError(f"matches of an evaluation: {error}") from error
        there_P = torch.ones_like(pairs.gt_P, dtype=torch.bool) if pairs.valid_P is None else pairs.valid_P
        gt_P, query_P = pairs.gt_P[there_P], pairs.query_P[there_P]
        if len(gt_P.unique()) < len(gt_P):
            raise UserError(
                f"{type(self.matcher).__name__} matches an object with several queries: whether one stays the same is "
                "asked of one-to-one matching"
            )
        return torch.full((targets.num,), -1, device=stack.device).index_put((gt_P,), query_P)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Writes the file. Returns the share of objects that are matched at the last stage; empty on other ranks."""
        gathered = comm.gather((self.kind, self.images))
        if not comm.is_main_process():
            return {}
        images = {image: found for _, part in gathered for image, found in part.items()}
        if not sum(query.shape[1] for query, _ in images.values()):
            return {}
        queries, found = zip(*(images[i] for i in sorted(images)), strict=True)
        matches = Matches(gathered[0][0], np.concatenate(queries, 1), np.concatenate(found, 1), len(images))
        matches.save(self.output)
        return {"matches": {"matched": float((matches.query_SG[-1] >= 0).mean())}}


def places(s: SupervisedSet, query_SG: Tensor, targets: Targets) -> tuple[str, Tensor]:
    """How the queries of a set are known in another checkpoint (:class:`Matches`), and (S, G, 4) of those matched."""
    prior: Prior | None = s.given.prior
    place_BQ4, kind = torch.zeros(*s.boxes_BQ4.shape[:2], 4, dtype=torch.float64, device=query_SG.device), "index"
    if prior is not None and prior.points_BQ2 is not None:
        kind, place_BQ4[..., :2] = "point", prior.points_BQ2
        if prior.strides_BQ is not None:
            place_BQ4[..., 2] = prior.strides_BQ
    elif prior is not None and prior.boxes_BQ4 is not None:
        kind, place_BQ4 = "box", box_cxcywh_to_xyxy(prior.boxes_BQ4.double())
    return kind, place_BQ4[targets.image_G, query_SG.clamp(min=0)]
