"""Stage-wise errors of a decoder during an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...checkpoint.files import write_json
from ...data.ground_truth import GroundTruth, read_ground_truth
from ...data.read import read_image
from ...modeling.postprocess import class_scores, main_sets, to_pixels
from ...runtime import comm
from ...structures import SupervisedSet
from ...visualization import beside, draw_boxes
from .errors import StageErrors
from .image import Fadings
from .matching import Objects

logger = logging.getLogger(__name__)

REPORT_FILE = "stages.json"


class StageEvaluator:
    """What becomes of each query from stage to stage, see :class:`StageErrors`.

    The predictions of all stages are sets that the decoder hands out anyway, so a model costs the same with and
    without. For a training it is switched on by ``dataloader.evaluator.stages=true``.

    Args:
        json: COCO annotation file, or one read already.
        thresholds: IoU thresholds.
        output_dir: where ``stages.json`` and the images go; None = not written.
        images: images to draw with all stages side by side, those whose matches lost most score.

    Raises:
        UserError: the file is missing or has no usable categories.
        ValueError: a threshold is out of range.
    """

    needs_sets = True

    def __init__(
        self,
        json: str | Path | GroundTruth,
        thresholds: Sequence[float] = (0.75,),
        output_dir: str | Path | None = None,
        images: int = 0,
    ) -> None:
        self.truth = read_ground_truth(json)
        self.json = self.truth.json
        self.class_names, self.category_ids = map(list, self.truth.classes)
        self.thresholds, self.images = tuple(map(float, thresholds)), images
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self.errors = StageErrors(len(self.class_names), self.thresholds)
        self.files: dict[int, str] = {}

    def metric_names(self) -> list[str]:
        """What ``evaluate`` gives, as ``task/name``; the number of stages is the model's."""
        names = ("AP_stage*", "TPF", "FPE", "recoverable", "grief", "AP_top100", "AP_oracle")
        return [f"stages/{name}" for name in names]

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet],
    ) -> None:
        """Take the predictions of a batch.

        Args:
            inputs: each with ``image_id``; ``file_name`` is used for drawings.
            outputs: what the model made of them; the size of the original images is taken from it.
            sets: what its decoder emitted.

        Raises:
            UserError: an image that the annotation file does not have, or classes that it does not have.
        """
        if self.truth.boxes is None:
            return
        sizes = [output["instances"].image_size for output in outputs]
        scores_BLQK, boxes_BLQ4 = stage_predictions(sets, sizes)
        self.truth.check_classes(scores_BLQK.shape[-1])
        for given, scores_LQK, boxes_LQ4 in zip(inputs, scores_BLQK, boxes_BLQ4, strict=True):
            image = self.truth.index_of(given)
            self.files[image] = given.get("file_name", "")
            self.errors.add(image, scores_LQK, boxes_LQ4, Objects(*self.truth.objects_of(image)))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of everything taken since ``reset``, of all ranks, in the log, and as far as wanted in files.

        Returns:
            ``{"stages": StageReport.metrics()}``; empty on ranks other than 0 and where nothing was taken.
        """
        gathered = comm.gather((self.errors, self.files))
        if not comm.is_main_process():
            return {}
        for errors, files in gathered:
            self.errors.merge(errors)
            self.files |= files
        if not self.errors.images:
            logger.warning("no stage-wise metrics: nothing was predicted, or %s has no annotations", self.json)
            return {}
        report = self.errors.result()
        at = ", ".join(f"{t:g}" for t in self.thresholds)
        logger.info("Stage-wise errors on %d images, every AP at IoU %s:\n%s", report.images, at, report.text())
        if self.output_dir is not None:
            write_json(report.to_dict(), self.output_dir / REPORT_FILE)
            self._draw(self.output_dir)
        return {"stages": report.metrics()}

    def _draw(self, folder: Path) -> None:
        for old in folder.glob("fading_*.png"):
            old.unlink()
        for rank, (image, fadings) in enumerate(self.errors.worst(self.images), 1):
            objects, file = Objects(*self.truth.objects_of(image)), self.files[image]
            drawn = draw_fadings(read_image(file), fadings, objects, self.class_names)
            drawn.save(folder / f"fading_{rank:02d}_{Path(file).stem}.png")


def stage_predictions(sets: Sequence[SupervisedSet], sizes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores (B, L, Q, K) and XYXY boxes (B, L, Q, 4) in pixels of the plain main sets, by stage.

    Args:
        sets: what a decoder emitted.
        sizes: (height, width) of the original images; boxes are clipped to them, empty ones stay.
    """
    main = [s for s in main_sets(sets) if s.stage >= 0]
    scores = torch.stack([class_scores(s.logits_BQK, s.softmax) for s in main], 1)
    boxes = torch.stack([s.boxes_BQ4.float() for s in main], 1)
    pixels = to_pixels(boxes.flatten(1, 2), sizes)[0].unflatten(1, boxes.shape[1:3])
    return scores.cpu().numpy(), pixels.cpu().numpy()


def draw_fadings(image: np.ndarray, fadings: Fadings, objects: Objects, class_names: Sequence[str]) -> Image.Image:
    """The objects whose matches faded, then what their queries said at each stage.

    Args:
        image: RGB, in the size that boxes refer to.
        fadings: of this image.
        objects: its ground truth.
        class_names: by class index.
    """
    xywh_F4 = objects.xywh_G4[fadings.object_F]
    truth_F4 = np.concatenate([xywh_F4[:, :2], xywh_F4[:, :2] + xywh_F4[:, 2:]], 1)
    panels = [draw_boxes(image, truth_F4, objects.class_G[fadings.object_F], class_names)]
    rows = zip(fadings.boxes_LF4, fadings.class_LF, fadings.score_LF, strict=True)
    panels += [draw_boxes(image, boxes, classes, class_names, scores) for boxes, classes, scores in rows]
    return beside(panels, ["objects", *(f"stage {i}" for i in range(1, len(panels)))])
