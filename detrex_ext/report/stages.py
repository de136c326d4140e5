"""What a decoder makes of some images, stage by stage: for the drawings, and to tell why nothing is found.

Shape legend: B images, L stages, Q queries, K classes, G objects, F queries of a drawing, N sampling points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..analysis.sampling import Points
from ..analysis.stages import Objects, StageErrors, stage_predictions
from ..analysis.stages.matching import overlaps
from ..data.ground_truth import GroundTruth
from ..structures import SupervisedSet
from ..visualization import draw_boxes

_SAME = 0.01
"""Boxes whose corners are nearer than this share of the image's longer side are the same."""
_COMPARED = 500  # boxes of an image, each with each
DRAWN = 340
"""Pixels of an image's longer side that is drawn on, so that names can be read where it is shown smaller."""
FADED, KEPT = (209, 73, 91), (46, 125, 50)
_FOLLOWED = 6


@dataclass
class Followed:
    """Queries of one image that are drawn at every stage.

    Attributes:
        image: index of the image.
        boxes_LF4, score_LF, class_LF: XYXY in pixels.
        faded_F: an earlier stage had the object with no lower IoU and a higher score.
    """

    image: int
    boxes_LF4: np.ndarray
    score_LF: np.ndarray
    class_LF: np.ndarray
    faded_F: np.ndarray


class StageLook:
    """Collects what the stages of a decoder say; ``process`` is that of an evaluator that needs sets.

    Args:
        truth: ground truth of the images.
    """

    needs_sets = True

    def __init__(self, truth: GroundTruth) -> None:
        self.truth, self.errors = truth, StageErrors(len(truth.classes.names), (0.5,))
        self.files: dict[int, str] = {}
        self.objects = 0
        self.hits_L = self.right_L = 0
        self.same: list[float] = []
        self.frozen: list[float] = []
        self.scores: list[np.ndarray] = []
        self._kept: dict[int, tuple[np.ndarray, ...]] = {}
        self._before: np.ndarray | None = None

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet],
    ) -> None:
        """Take a batch, as :meth:`StageEvaluator.process`."""
        sizes = [output["instances"].image_size for output in outputs]
        scores_BLQK, boxes_BLQ4 = stage_predictions(sets, sizes)
        for given, size, scores_LQK, boxes_LQ4 in zip(inputs, sizes, scores_BLQK, boxes_BLQ4, strict=True):
            image = self.truth.index_of(given)
            objects = Objects(*self.truth.objects_of(image))
            self.files[image] = str(given.get("file_name", ""))
            self.errors.add(image, scores_LQK, boxes_LQ4, objects)
            self._count(scores_LQK, boxes_LQ4, objects, size)
            self._kept[image] = scores_LQK.max(-1), scores_LQK.argmax(-1), boxes_LQ4

    def _count(self, scores_LQK: np.ndarray, boxes_LQ4: np.ndarray, objects: Objects, size: tuple[int, int]) -> None:
        best_LQ = scores_LQK.max(-1)
        self.scores.append(best_LQ[-1])
        last_Q4 = boxes_LQ4[-1, :: -(-boxes_LQ4.shape[1] // _COMPARED)] / max(size)
        near_QQ = np.abs(last_Q4[:, None] - last_Q4[None]).max(-1) < _SAME
        self.same.append(float((near_QQ.sum(1) > 1).mean()))
        unit_Q4 = boxes_LQ4[-1] / np.array([size[1], size[0], size[1], size[0]])
        if self._before is not None and self._before.shape == unit_Q4.shape:
            self.frozen.append(float((np.abs(unit_Q4 - self._before).max(-1) < _SAME).mean()))
        self._before = unit_Q4
        keep_G = ~objects.crowd_G
        alike = Objects(objects.xywh_G4[keep_G], np.zeros(int(keep_G.sum()), dtype=np.int64), objects.crowd_G[keep_G])
        if not len(alike.class_G):
            return
        iou_LQG = overlaps(boxes_LQ4, np.zeros(best_LQ.shape, dtype=np.int64), alike)
        self.objects += len(alike.class_G)
        hit_LG = iou_LQG.max(1) >= 0.5
        class_LG = np.take_along_axis(scores_LQK.argmax(-1), iou_LQG.argmax(1), 1)
        self.hits_L = self.hits_L + hit_LG.sum(1)
        self.right_L = self.right_L + (hit_LG & (class_LG == objects.class_G[keep_G])).sum(1)

    @property
    def looked(self) -> list[int]:
        """Indices of the images."""
        return sorted(self._kept)

    def recall_L(self) -> np.ndarray:
        """Share of the objects near which some query is at each stage (IoU 0.5), whatever its class and score."""
        return np.atleast_1d(self.hits_L / max(self.objects, 1))

    def right_share(self) -> float:
        """Of the objects that a query of the last stage is near, the share whose class the nearest one names."""
        hits, right = np.atleast_1d(self.hits_L)[-1], np.atleast_1d(self.right_L)[-1]
        return float(right / hits) if hits else float("nan")

    def score_range(self) -> tuple[float, float, float]:
        """Lowest, middle and highest best score of a query of the last stage."""
        scores = np.concatenate(self.scores) if self.scores else np.zeros(1)
        return float(scores.min()), float(np.median(scores)), float(scores.max())

    def worst(self, count: int) -> list[Followed]:
        """The images that lost most by fading; filled up with others, whose best queries are followed."""
        found = []
        faded = dict(self.errors.worst(len(self._kept))) if self._kept else {}
        for image in [*faded, *(i for i in self.looked if i not in faded)][:count]:
            score_LQ, class_LQ, boxes_LQ4 = self._kept[image]
            lost = faded[image].query_F[:_FOLLOWED].tolist() if image in faded else []
            best = [q for q in np.argsort(-score_LQ[-1], kind="stable").tolist() if q not in lost]
            chosen = [*lost, *best[: max(_FOLLOWED - len(lost), 2)]]
            flags = np.arange(len(chosen)) < len(lost)
            found.append(Followed(image, boxes_LQ4[:, chosen], score_LQ[:, chosen], class_LQ[:, chosen], flags))
        return found


def stage_panels(image: np.ndarray, followed: Followed, names: Sequence[str]) -> list[Image.Image]:
    """An image for each stage: faded hits in red, the other queries in green."""
    labels = [*names, *names]
    colors = {k: KEPT for k in range(len(names))} | {k + len(names): FADED for k in range(len(names))}
    rows = zip(followed.boxes_LF4, followed.class_LF, followed.score_LF, strict=True)
    states = len(names) * followed.faded_F
    return [draw_boxes(image, b, k + states, labels, s, colors, DRAWN) for b, k, s in rows]


def point_panels(image: np.ndarray, stages: Sequence[Points]) -> list[Image.Image]:
    """An image for each stage: the query's box before and after it, and where it samples, by weight.

    What the query sees at any stage is shown.
    """
    size = np.array(image.shape[1::-1])
    stages = [replace(p, at_N2=p.at_N2.clip(-2, 3), weight_N=np.nan_to_num(p.weight_N)) for p in stages]
    stages = [p for p in stages if np.isfinite([*p.before_4, *p.after_4, *p.at_N2.ravel()]).all()]
    if not stages:
        return []
    seen = [x for p in stages for x in (p.at_N2, p.before_4.reshape(2, 2), p.after_4.reshape(2, 2))]
    seen = np.concatenate(seen).clip(0, 1) * size
    margin = 0.15 * (seen.max(0) - seen.min(0)).max() + 4
    low = np.floor(seen.min(0) - margin).clip(0).astype(int)
    high = np.minimum(np.ceil(seen.max(0) + margin), size).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    panels = []
    for points in stages:
        panel = draw_boxes(part, [], [], [], long_side=DRAWN)
        scale, pen = max(panel.size) / max(part.shape[:2]), ImageDraw.Draw(panel)
        for box, color in ((points.before_4, (150, 150, 150)), (points.after_4, KEPT)):
            ends = (box.reshape(2, 2) * size - low) * scale
            pen.rectangle([*ends.min(0), *ends.max(0)], outline=color, width=3)
        most = points.weight_N.max(initial=1e-12)
        places = (points.at_N2 * size - low) * scale
        for (x, y), weight in zip(places.tolist(), (points.weight_N / most).tolist(), strict=True):
            r = 1.5 + 4.5 * weight**0.5
            pen.ellipse([x - r, y - r, x + r, y + r], fill=(255, round(230 * (1 - weight)), 0), outline="black")
        panels.append(panel)
    return panels
