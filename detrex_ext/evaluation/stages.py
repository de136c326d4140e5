"""Stage-wise errors of a decoder during an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..checkpoint.files import write_json
from ..data.ground_truth import GroundTruth, read_ground_truth
from ..errors import UserError
from ..modeling.postprocess import class_scores, main_sets, to_pixels
from ..runtime import comm
from ..structures import SupervisedSet
from .watched import DecoderSets

if TYPE_CHECKING:
    from ..analysis.stage_matching import Objects
    from ..analysis.stages import StageErrors

logger = logging.getLogger(__name__)

REPORT_FILE = "stages.json"


class StageEvaluator:
    """What becomes of each query from stage to stage, see ``analysis.stages.StageErrors``.

    The predictions of all stages are those that the decoder hands out anyway: they are read from it while it runs
    (``watch``), so that a model costs the same with and without it. For a training it is switched on by
    ``dataloader.evaluator.stages=true``.

    Args:
        json: COCO annotation file, or one read already.
        thresholds: IoU thresholds.
        output_dir: where ``stages.json`` and the pictures go; None = not written.
        pictures: pictures to draw with all stages side by side, those whose matches lost most score.

    Raises:
        UserError: the file is missing or has no usable categories.
        ValueError: a threshold is out of range.
    """

    def __init__(
        self,
        json: str | Path | GroundTruth,
        thresholds: Sequence[float] = (0.75,),
        output_dir: str | Path | None = None,
        pictures: int = 0,
    ) -> None:
        self.truth = read_ground_truth(json)
        self.json = self.truth.json
        self.class_names, self.category_ids = map(list, self.truth.classes)
        self.thresholds, self.pictures = tuple(map(float, thresholds)), pictures
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._sets = DecoderSets("stages=false")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        from ..analysis.stages import StageErrors

        self.errors: StageErrors = StageErrors(len(self.class_names), self.thresholds)
        self.files: dict[int, str] = {}

    def metric_names(self) -> list[str]:
        """What ``evaluate`` gives, as ``task/name``; the number of stages is the model's."""
        names = ("AP_stage*", "TPF", "FPE", "recoverable", "grief", "AP_top100", "AP_oracle")
        return [f"stages/{name}" for name in names]

    def watch(self, model: nn.Module) -> AbstractContextManager[None]:
        """Read what ``model.decoder`` returns while this is held; a ``UserError`` if there is no such part."""
        return self._sets.watch(model)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take the predictions of a batch.

        Args:
            inputs: each with ``image_id``; ``file_name`` is used for pictures.
            outputs: what the model made of them; the size of the original pictures is taken from it.

        Raises:
            UserError: an image that the annotation file does not have, or classes that it does not have.
        """
        sets = self._sets.take()
        if self.truth.boxes is None:
            return
        sizes = [output["instances"].image_size for output in outputs]
        scores_BLQK, boxes_BLQ4 = stage_predictions(sets, sizes)
        if scores_BLQK.shape[-1] != len(self.class_names):
            found, wanted = scores_BLQK.shape[-1], len(self.class_names)
            raise UserError(f"the model has {found} classes, {self.json} has {wanted}")
        for given, scores_LQK, boxes_LQ4 in zip(inputs, scores_BLQK, boxes_BLQ4, strict=True):
            image = self.truth.index_of(given)
            self.files[image] = given.get("file_name", "")
            self.errors.add(image, scores_LQK, boxes_LQ4, self._objects(image))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures of everything taken since ``reset``, of all ranks, in the log, and as far as wanted in files.

        Returns:
            ``{"stages": StageReport.figures()}``; empty on ranks other than 0 and where nothing was taken.
        """
        gathered = comm.gather((self.errors, self.files))
        if not comm.is_main_process():
            return {}
        for errors, files in gathered:
            self.errors.merge(errors)
            self.files |= files
        if not self.errors.pictures:
            logger.warning("no stage-wise figures: nothing was predicted, or %s has no annotations", self.json)
            return {}
        report = self.errors.result()
        logger.info("Stage-wise errors on %d images:\n%s", report.images, report.text())
        if self.output_dir is not None:
            write_json(report.to_dict(), self.output_dir / REPORT_FILE)
            self._draw()
        return {"stages": report.figures()}

    def _objects(self, image: int) -> Objects:
        from ..analysis.stage_matching import Objects

        boxes, rows = self.truth.boxes, self.truth.rows_of(image)
        return Objects(boxes.xywh_P4[rows], boxes.class_P[rows], boxes.crowd_P[rows])

    def _draw(self) -> None:
        from ..analysis.stage_drawing import draw_fadings
        from ..data.read import read_image

        for old in self.output_dir.glob("fading_*.png"):
            old.unlink()
        for rank, (image, fadings) in enumerate(self.errors.worst(self.pictures), 1):
            objects, file = self._objects(image), self.files[image]
            drawn = draw_fadings(read_image(file), fadings, objects, self.class_names)
            drawn.save(self.output_dir / f"fading_{rank:02d}_{Path(file).stem}.png")


def stage_predictions(sets: Sequence[SupervisedSet], sizes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores (B, L, Q, K) and XYXY boxes (B, L, Q, 4) in pixels of the plain main sets, by stage.

    Args:
        sets: what a decoder emitted.
        sizes: (height, width) of the original pictures; boxes are clipped to them, empty ones stay.
    """
    main = main_sets(sets)
    scores = torch.stack([class_scores(s.logits_BQK, s.softmax) for s in main], 1)
    boxes = torch.stack([s.boxes_BQ4.float() for s in main], 1)
    pixels = to_pixels(boxes.flatten(1, 2), sizes)[0].unflatten(1, boxes.shape[1:3])
    return scores.cpu().numpy(), pixels.cpu().numpy()
