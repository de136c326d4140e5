"""COCO evaluation of box detections."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..analysis.stages import StageEvaluator
from ..checkpoint.files import write_json
from ..data.ground_truth import BoxTable, GroundTruth, read_ground_truth
from ..errors import UserError
from ..runtime import comm
from ..structures import SupervisedSet
from .best_f1 import NAMES as F1_NAMES
from .coco_metrics import AP_NAMES, coco_metrics, fast_available
from .nms import NmsEvaluator

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"


class CocoEvaluator:
    """The six COCO metrics and the AP of each class, x 100, on one annotation file.

    Predictions are kept as small arrays; ranks are joined by image, so that the number of processes, and images that
    were shown twice to fill up a shard, change nothing.

    Args:
        json: COCO annotation file, or one read already; its categories by ascending id are the model's classes.
        output_dir: where ``coco_instances_results.json`` goes (with the file's own ids); None = not written.
        max_dets: detections counted per image and class; 10 or more.
        fast: use faster-coco-eval (True), pycocotools (False), or the first if installed (None).
        stages: add what ``StageEvaluator`` gives at IoU 0.75, as task "stages" (``dataloader.evaluator.stages=true``).
        nms: add the metrics that post-processing with this ``nms`` would have, as task "bbox_nms", from the same pass
            (``dataloader.evaluator.nms=0.8``); None = not.
        task: name of the metrics.

    Raises:
        UserError: the file is missing or has no usable categories. ValueError: another argument.
    """

    def __init__(
        self,
        json: str | Path | GroundTruth,
        output_dir: str | Path | None = None,
        max_dets: int = 100,
        fast: bool | None = None,
        stages: bool = False,
        nms: float | None = None,
        task: str = "bbox",
    ) -> None:
        if max_dets < 10:
            raise ValueError(f"max_dets is {max_dets}; expected at least 10, as COCO's recalls count 1 and 10")
        if fast and not fast_available():
            raise ValueError("fast=true asks for faster-coco-eval, which is not installed; null takes what there is")
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.max_dets, self.fast, self.task = max_dets, fast, task
        self.truth = read_ground_truth(json)
        self.json = self.truth.json
        self.class_names, self.category_ids = map(list, self.truth.classes)
        self.image_ids = self.truth.image_ids
        self.parts: list[StageEvaluator | NmsEvaluator] = [StageEvaluator(self.truth)] if stages else []
        if nms is not None:
            same = CocoEvaluator(self.truth, max_dets=max_dets, fast=fast, task=f"{task}_nms")
            self.parts.append(NmsEvaluator(same, nms))
        self.reset()

    def metric_names(self) -> list[str]:
        """What ``evaluate`` gives, as ``task/name``; a ``*`` stands for what only the model knows."""
        classes = self.class_names if len(self.class_names) > 1 else []
        names = [f"{self.task}/{name}" for name in (*AP_NAMES, *(f"AP-{name}" for name in classes))]
        names += [f"{self.task}_f1/{name}" for name in F1_NAMES]
        return names + [name for part in self.parts for name in part.metric_names()]

    @property
    def needs_sets(self) -> bool:
        """Whether more than predictions is looked at, see :class:`~detrex_ext.evaluation.loop.Evaluator`."""
        return bool(self.parts)

    def prepare(self, model: nn.Module) -> None:
        """Raises a ``UserError`` where the model does not offer what the options ask for."""
        for part in self.parts:
            getattr(part, "prepare", lambda model: None)(model)

    def reset(self) -> None:
        """Forget all predictions."""
        for part in self.parts:
            part.reset()
        self._found: dict[int, np.ndarray] = {}

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet] | None = None,
    ) -> None:
        """Take the predictions of a batch.

        Args:
            inputs: each with ``image_id``.
            outputs: each ``{"instances": Instances}`` with pred_boxes (XYXY, pixels of the original image), scores
                and pred_classes.
            sets: what the decoder emitted, for ``stages`` and ``nms``.

        Raises:
            UserError: an image that the annotation file does not have.
            RuntimeError: no sets, where an option needs them.
        """
        if self.parts and sets is None:
            raise RuntimeError("stages and nms need sets: detrex_ext.evaluation.inference_on_dataset gives them")
        for part in self.parts:
            part.process(inputs, outputs, sets)
        for given, output in zip(inputs, outputs, strict=True):
            image, instances = self.truth.index_of(given), output["instances"]
            columns = [instances.pred_boxes.tensor, instances.scores[:, None], instances.pred_classes[:, None]]
            rows = np.concatenate([c.detach().float().cpu().numpy() for c in columns], axis=1)
            self._found[image] = rows

    def detections(self) -> tuple[BoxTable, list[int]] | None:
        """What this process has taken since ``reset``, and the images that it is of; None where that is nothing."""
        return (_table(self._found), sorted(self._found)) if self._found else None

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of everything taken since ``reset``, of all ranks.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" where there is more than one}}``, x 100,
            NaN where there is nothing to measure; empty on ranks other than 0, where nothing was predicted on, and
            where the file has no annotations. Where something was found also ``"bbox_f1"``, see
            :class:`~detrex_ext.evaluation.best_f1.BestF1`; with ``stages`` and ``nms`` also their tasks.

        Raises:
            UserError: a predicted class that the file does not have.
        """
        results = self._boxes()
        for part in self.parts:
            results |= part.evaluate()
        return results

    def _boxes(self) -> dict[str, dict[str, float]]:
        gathered = comm.gather(self._found)
        if not comm.is_main_process():
            return {}
        rows = dict(chain.from_iterable(of_rank.items() for of_rank in gathered))
        if not rows:
            logger.warning("nothing to evaluate: no predictions were made")
            return {}
        if len(rows) < len(self.image_ids):
            logger.warning("predictions for %d of the %d images of %s", len(rows), len(self.image_ids), self.json)
        found = _table(rows)
        self._check_classes(found)
        if self.output_dir is not None:
            self._write(found)
        if self.truth.boxes is None:
            kept = "" if self.output_dir else "; dataloader.evaluator.output_dir=DIR keeps what was found"
            logger.warning("%s has no annotations: no metrics%s", self.json, kept)
            return {}
        if not len(found.image_P):
            logger.warning("no objects were found in any of the %d images", len(rows))
        size = len(self.image_ids), len(self.class_names)
        metrics = coco_metrics(self.truth.boxes, found, *size, self.max_dets, self.fast)
        boxes = {self.task: metrics.named(self.class_names, self.max_dets, self.task)}
        return boxes | metrics.f1.named(self.class_names, self.task)

    def _check_classes(self, found: BoxTable) -> None:
        known = len(self.class_names)
        if len(found.class_P) and found.class_P.max() >= known:
            raise UserError(
                f"the model predicted class {found.class_P.max()}, {self.json} has {known}: "
                f"{', '.join(self.class_names[:8])}{', ...' if known > 8 else ''}\n"
                "  evaluate on a file with the categories of the training file"
            )

    def _write(self, found: BoxTable) -> None:
        """Every detection as COCO's results format has it."""
        columns = (found.image_P, found.class_P, found.xywh_P4, found.score_P)
        rows = [
            {"image_id": self.image_ids[i], "category_id": self.category_ids[k], "bbox": box, "score": score}
            for i, k, box, score in zip(*(c.tolist() for c in columns), strict=True)
        ]
        write_json(rows, self.output_dir / RESULTS_FILE, indent=None)


def _table(rows: Mapping[int, np.ndarray]) -> BoxTable:
    """Detections of all images, by image; ``rows`` are (n, 6): XYXY, score, class."""
    images = sorted(rows)
    flat_P6 = np.concatenate([rows[image] for image in images])
    xywh_P4 = np.concatenate([flat_P6[:, :2], flat_P6[:, 2:4] - flat_P6[:, :2]], axis=1).astype(np.float64)
    image_P = np.repeat(np.array(images), [len(rows[image]) for image in images])
    return BoxTable(image_P, flat_P6[:, 5].astype(np.int64), xywh_P4, flat_P6[:, 4].astype(np.float64))
