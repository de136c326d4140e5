"""An exported file against the model that it was made from, on images.

Shape legend: N predictions of an image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detrex_ext.data.json_file import read_json
from detrex_ext.data.read import read_image
from detrex_ext.evaluation import CocoEvaluator
from detrex_ext.predictor import Predictor
from detrex_ext.runtime import Boxes, Instances

from .files import Run
from .graph import FromPixels, Graph

_SEEN = 0.05  # predictions of a lower score are not looked at one by one
Predict = Callable[[np.ndarray], Instances]


@dataclass
class Comparison:
    """What was found on some images.

    Attributes:
        images: how many.
        scores, boxes: of each image the largest difference of scores, and of corners in pixels, by the name of a file.
        ap: AP x 100 by name, the model's own under ``torch`` (in the frame) and ``predict`` (each image at its own
            size); empty without annotations.
    """

    images: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)
    boxes: dict[str, list[float]] = field(default_factory=dict)
    ap: dict[str, float] = field(default_factory=dict)


def compare(
    predictor: Predictor,
    graph: Graph,
    runs: Mapping[str, Run],
    images: Iterable[Mapping[str, Any]],
    truth: str | Path = "",
) -> Comparison:
    """Predicts on all images by the model and by the files.

    Args:
        predictor: the model.
        graph: that the files hold.
        runs: files by name.
        images: each with ``file_name`` or ``image``, and where there is a ``truth`` its ``image_id``.
        truth: annotation file of these images; "" = none.
    """
    found, evaluators = Comparison(), {}
    ways: dict[str, Predict] = {name: in_frame(graph, run) for name, run in {"torch": _eager(graph), **runs}.items()}
    if truth:
        ways["predict"] = lambda rgb: predictor.predict(rgb, threshold=0.0)
        evaluators = {name: CocoEvaluator(truth) for name in ways}
    found.scores, found.boxes = {name: [] for name in runs}, {name: [] for name in runs}
    for image in images:
        rgb = image["image"] if "image" in image else read_image(image["file_name"])
        answers = {name: predict(rgb) for name, predict in ways.items()}
        found.images += 1
        for name in runs:
            scores, boxes = differences(answers["torch"], answers[name])
            found.scores[name].append(scores)
            found.boxes[name].append(boxes)
        for name, evaluator in evaluators.items():
            evaluator.process([image], [{"instances": answers[name]}])
    for name, evaluator in evaluators.items():
        found.ap[name] = evaluator.evaluate().get("bbox", {}).get("AP", math.nan)
    return found


def in_frame(graph: Graph, run: Run) -> Predict:
    """An image's objects by a file, or whatever takes a graph's inputs."""

    def predict(rgb: np.ndarray) -> Instances:
        images, (h, w) = torch.from_numpy(np.ascontiguousarray(rgb))[None], rgb.shape[:2]
        scale = torch.ones(4)
        given: tuple = (images,)
        if not isinstance(graph, FromPixels):
            x, hw_2 = graph.framed(images)
            given, scale = (x, hw_2[None]), (torch.tensor([h, w]) / hw_2).flip(0).repeat(2)
        boxes, scores, labels = (out[0] for out in run(given))
        there = scores > 0
        found = Instances((h, w))
        found.pred_boxes = Boxes((boxes * scale)[there])
        found.scores, found.pred_classes = scores[there], labels[there]
        return found

    return predict


def _eager(graph: Graph) -> Run:
    def run(given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return graph(*given)

    return run


def differences(a: Instances, b: Instances) -> tuple[float, float]:
    """Largest difference of the scores by rank, and, of what is seen, of a box from the nearest of its class.

    Where one of the two has nothing of a class that the other sees, boxes are as far as the image is long.
    """
    most = max(len(a), len(b))
    padded = [torch.cat([x.scores, x.scores.new_zeros(most - len(x))]) for x in (a, b)]
    scores = (padded[0] - padded[1]).abs().max().item() if most else 0.0
    far = 0.0
    seen = a.scores > _SEEN
    for box, label in zip(a.pred_boxes.tensor[seen], a.pred_classes[seen], strict=True):
        others = b.pred_boxes.tensor[b.pred_classes == label]
        far = max(far, (others - box).abs().amax(1).min().item() if len(others) else float(max(a.image_size)))
    return scores, far


def first_images(truth: str | Path, count: int, folder: Path) -> Path:
    """An annotation file of the first images of another, written into a folder."""
    data = read_json(truth)
    data["images"] = data["images"][:count]
    kept = {image.get("id") for image in data["images"]}
    data["annotations"] = [a for a in data.get("annotations", []) if a.get("image_id") in kept]
    path = folder / "first.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
