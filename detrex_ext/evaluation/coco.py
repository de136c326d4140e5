"""COCO evaluation of box detections."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..checkpoint.files import write_json
from ..data.ground_truth import BoxTable, GroundTruth, read_ground_truth
from ..errors import UserError
from ..runtime import comm
from .figures import AP_NAMES, Figures, coco_figures, fast_available
from .stages import StageEvaluator
from .suppressed import SuppressedEvaluator

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"


class CocoEvaluator:
    """The six COCO figures and the AP of each class, x 100, on one annotation file.

    Predictions are kept as small arrays; ranks are joined by image, so that the number of processes, and images that
    were shown twice to fill up a shard, change nothing.

    Args:
        json: COCO annotation file, or one read already; its categories by ascending id are the model's classes.
        output_dir: where ``coco_instances_results.json`` goes (with the file's own ids); None = not written.
        max_dets: detections counted per image and class; 10 or more.
        fast: use faster-coco-eval (True), pycocotools (False), or the first if installed (None).
        stages: add what ``StageEvaluator`` gives at IoU 0.75, as task "stages" (``dataloader.evaluator.stages=true``).
        nms: add the figures that post-processing with this ``nms`` would have, as task "bbox_nms", from the same pass
            (``dataloader.evaluator.nms=0.8``); None = not.
        task: name of the figures.

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
        self.parts: list[StageEvaluator | SuppressedEvaluator] = [StageEvaluator(self.truth)] if stages else []
        if nms is not None:
            same = CocoEvaluator(self.truth, max_dets=max_dets, fast=fast, task=f"{task}_nms")
            self.parts.append(SuppressedEvaluator(same, nms))
        self.reset()

    def metric_names(self) -> list[str]:
        """What ``evaluate`` gives, as ``task/name``; a ``*`` stands for what only the model knows."""
        classes = self.class_names if len(self.class_names) > 1 else []
        names = [f"{self.task}/{name}" for name in (*AP_NAMES, *(f"AP-{name}" for name in classes))]
        return names + [name for part in self.parts for name in part.metric_names()]

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Held while ``model`` runs, see ``inference_on_dataset``."""
        with ExitStack() as watching:
            for part in self.parts:
                watching.enter_context(part.watch(model))
            yield

    def reset(self) -> None:
        """Forget all predictions."""
        for part in self.parts:
            part.reset()
        self._images: list[int] = []
        self._found: list[np.ndarray] = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take the predictions of a batch.

        Args:
            inputs: each with ``image_id``.
            outputs: each ``{"instances": Instances}`` with pred_boxes (XYXY, pixels of the original picture), scores
                and pred_classes.

        Raises:
            UserError: an image that the annotation file does not have.
        """
        for part in self.parts:
            part.process(inputs, outputs)
        for given, output in zip(inputs, outputs, strict=True):
            image = self.truth.index_of(given)
            instances = output["instances"]
            columns = [instances.pred_boxes.tensor, instances.scores[:, None], instances.pred_classes[:, None]]
            self._images.append(image)
            self._found.append(np.concatenate([c.detach().float().cpu().numpy() for c in columns], axis=1))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures of everything taken since ``reset``, of all ranks.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" where there is more than one}}``, x 100,
            NaN where there is nothing to measure; empty on ranks other than 0, where nothing was predicted on, and
            where the file has no annotations. With ``stages`` and ``nms`` also their tasks.

        Raises:
            UserError: a predicted class that the file does not have.
        """
        results = self._boxes()
        for part in self.parts:
            results |= part.evaluate()
        return results

    def _boxes(self) -> dict[str, dict[str, float]]:
        counts = np.array([len(x) for x in self._found], dtype=np.int64)
        flat = np.concatenate(self._found) if self._found else np.zeros((0, 6), dtype=np.float32)
        gathered = comm.gather((np.array(self._images, dtype=np.int64), counts, flat))
        if not comm.is_main_process():
            return {}
        images, found = _join(gathered)
        if not len(images):
            logger.warning("nothing to evaluate: no predictions were made")
            return {}
        if len(images) < len(self.image_ids):
            logger.warning("predictions for %d of the %d images of %s", len(images), len(self.image_ids), self.json)
        self._check_classes(found)
        if self.output_dir is not None:
            self._write(found)
        if self.truth.boxes is None:
            kept = "" if self.output_dir else "; dataloader.evaluator.output_dir=DIR keeps what was found"
            logger.warning("%s has no annotations: no figures%s", self.json, kept)
            return {}
        if not len(found.image_P):
            logger.warning("no objects were found in any of the %d images", len(images))
            return {self.task: dict.fromkeys(AP_NAMES, math.nan)}
        size = len(self.image_ids), len(self.class_names)
        figures = coco_figures(self.truth.boxes, found, *size, self.max_dets, self.fast)
        return {self.task: self._results(figures)}

    def _results(self, figures: Figures) -> dict[str, float]:
        result = {name: 100 * float(v) for name, v in zip(AP_NAMES, figures.ap, strict=True)}
        limits = ("AR1", "AR10", f"AR{self.max_dets}", "ARs", "ARm", "ARl")
        recall = {name: 100 * float(v) for name, v in zip(limits, figures.ar, strict=True)}
        logger.info("Evaluation results for %s:\n%s\n%s", self.task, _table(result, 6), _table(recall, 6))
        if len(self.class_names) > 1:
            per_class = dict(zip(self.class_names, 100 * figures.class_ap_K, strict=True))
            logger.info("Per-category %s AP:\n%s", self.task, _table(per_class, 3))
            result |= {f"AP-{name}": float(v) for name, v in per_class.items()}
        return result

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


def _join(gathered: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, BoxTable]:
    """Images seen, ascending, and their detections in that order; a repeated image counts once."""
    images = np.concatenate([g[0] for g in gathered])
    parts = [p for _, counts, flat in gathered if len(counts) for p in np.split(flat, np.cumsum(counts)[:-1])]
    unique, first = np.unique(images, return_index=True)
    chosen = [parts[i] for i in first]
    flat = np.concatenate(chosen) if chosen else np.zeros((0, 6), dtype=np.float32)
    xywh = np.concatenate([flat[:, :2], flat[:, 2:4] - flat[:, :2]], axis=1).astype(np.float64)
    image_P = np.repeat(unique, [len(c) for c in chosen])
    return unique, BoxTable(image_P, flat[:, 5].astype(np.int64), xywh, flat[:, 4].astype(np.float64))


def _table(values: Mapping[str, float], columns: int) -> str:
    """Names and figures side by side, ``columns`` pairs in a row."""
    cells = [(str(name), f"{value:.3f}") for name, value in values.items()]
    wide = max(len(name) for name, _ in cells)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return "\n".join("| " + " | ".join(f"{n:<{wide}} {v:>7}" for n, v in row) + " |" for row in rows)
