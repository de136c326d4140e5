"""Losses of the validation data, from the pass that an evaluation makes anyway."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from ..analysis.truth import targets_of, without_candidates
from ..criterion import SetCriterion
from ..criterion.normalizers import world_size
from ..data.ground_truth import GroundTruth
from ..errors import UserError
from ..layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from ..matching import RestrictedMatcher, stack_sets
from ..modeling.postprocess import main_sets
from ..runtime import comm
from ..structures import SupervisedSet, Targets

logger = logging.getLogger(__name__)
TASK = "val"
_LEAST_SIDE = 1e-5  # pixels, as of a training's boxes


class LossEvaluator:
    """The losses of the bare host's decoder, all its stages, under the names that a training gives them.

    What acts in training alone has none: strategies, denoising, further groups, proposals. Images are not augmented,
    crowd regions are no objects. Each loss is the mean over all images, of whichever process, of those of their batch.

    Args:
        truth: the validation file's.
        rules: of the host, by group.
        progress: of the training, 0 to 1, for rules that go by it.

    Raises:
        UserError: there is no rule for the decoder's sets.
    """

    needs_sets = True

    def __init__(self, truth: GroundTruth, rules: Mapping[str, Any], progress: Callable[[], float]) -> None:
        if "main" not in rules:
            raise UserError("train.eval_loss=true: the model has no rule of group 'main' (model.rules)")
        self.truth, self.progress = truth, progress
        self.criterion = SetCriterion({"main": rules["main"]}, check_finite=False)
        self.reset()

    def reset(self) -> None:
        """Forget all losses."""
        self._losses: dict[int, dict[str, float]] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]], sets: Sequence[SupervisedSet]
    ) -> None:
        """Take the sets of a batch.

        Raises:
            UserError: an image that the annotation file does not have, or a rule that needs a training.
        """
        main = [s for s in main_sets(sets) if s.stage >= 0]
        images = [self.truth.index_of(given) for given in inputs]
        sizes = [output["instances"].image_size for output in outputs]
        targets = _on_image(targets_of(self.truth, images, sizes, inputs)).to(main[0].logits_BQK.device)
        try:
            losses = self._of_batch([self._with_candidates(s, targets) for s in main], targets)
        except FloatingPointError:  # of weights that are spoilt: the training finds that out itself
            losses = {"total_loss": math.nan}
        except ValueError as error:
            raise UserError(f"train.eval_loss=true: {error}") from error
        self._losses |= dict.fromkeys(images, losses)

    def _with_candidates(self, s: SupervisedSet, targets: Targets) -> SupervisedSet:
        """An evaluation knows no objects, so that a source names no candidates: the matcher finds them, if it can."""
        s, matcher = without_candidates(s), self.criterion.rules[0].matcher
        if s.given.prior is None or not isinstance(matcher, RestrictedMatcher):
            return s
        found_BQ = torch.full(s.logits_BQK.shape[:2], -1, device=s.logits_BQK.device)
        if targets.num:
            found_BQ = matcher.candidates(stack_sets([s]), targets)
        return replace(s, given=replace(s.given, prior=replace(s.given.prior, candidate_gt_BQ=found_BQ)))

    def _of_batch(self, main: Sequence[SupervisedSet], targets: Targets) -> dict[str, float]:
        B, world = len(targets.labels), world_size()
        # the totals of "all ranks", of which each takes its part: nothing is counted together
        found = self.criterion(main, targets, (float(targets.num * world), float(B * world)), self.progress())
        names, values = list(found), torch.stack([v.float() for v in found.values()])
        losses = dict(zip(names, values.tolist(), strict=True))
        return {"total_loss": sum(losses.values()), **losses}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """``{"val": {"total_loss", "loss_class", ...}}``; empty on ranks other than 0 and where nothing was taken."""
        gathered = comm.gather(self._losses)
        if not comm.is_main_process():
            return {}
        of_image = dict(chain.from_iterable(part.items() for part in gathered))
        if not of_image or self.truth.boxes is None:
            return {}
        names = dict.fromkeys(name for losses in of_image.values() for name in losses)
        each = {name: [losses.get(name, math.nan) for losses in of_image.values()] for name in names}
        means = {name: sum(values) / len(values) for name, values in each.items()}
        shown = "  ".join(f"{name}: {value:.4g}" for name, value in means.items())
        logger.info("losses of %d validation images: %s", len(of_image), shown)
        return {TASK: means}


def _on_image(targets: Targets) -> Targets:
    """Boxes cut at the border of the image, and none beyond it, as a training has them."""
    labels, boxes = [], []
    for label_G, box_G4, hw in zip(targets.labels, targets.boxes, targets.image_hw_B2, strict=True):
        xyxy_G4 = box_cxcywh_to_xyxy(box_G4).clamp(0, 1)
        kept_G = ((xyxy_G4[:, 2:] - xyxy_G4[:, :2]) * hw.flip(0) > _LEAST_SIDE).all(1)
        labels.append(label_G[kept_G])
        boxes.append(box_xyxy_to_cxcywh(xyxy_G4[kept_G]))
    return Targets(tuple(labels), tuple(boxes), targets.image_hw_B2)
