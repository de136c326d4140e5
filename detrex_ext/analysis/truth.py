"""Objects of a validation file as targets.

Shape legend: B images, G objects of the batch (flat).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..data.ground_truth import GroundTruth
from ..structures import SupervisedSet, Targets


def targets_of(
    truth: GroundTruth,
    images: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    inputs: Sequence[Mapping[str, Any]] = (),
) -> Targets:
    """The objects of some images, without crowd regions.

    Args:
        truth: the file.
        images: index of each image.
        sizes: (height, width) that its boxes are of.
        inputs: what the model took, by whose sizes places are in pixels; none: the sizes of the boxes.
    """
    labels, boxes = [], []
    for image, (height, width) in zip(images, sizes, strict=True):
        xywh_G4, class_G, crowd_G = truth.objects_of(image)
        xywh_G4 = torch.from_numpy(xywh_G4[~crowd_G]).float()
        labels.append(torch.from_numpy(class_G[~crowd_G]))
        unit = xywh_G4.new_tensor([width, height, width, height])
        boxes.append(torch.cat([xywh_G4[:, :2] + xywh_G4[:, 2:] / 2, xywh_G4[:, 2:]], 1) / unit)
    given = [tuple(x["image"].shape[-2:]) for x in inputs] or list(sizes)
    return Targets(tuple(labels), tuple(boxes), torch.tensor(given, dtype=torch.float32))


def without_candidates(s: SupervisedSet) -> SupervisedSet:
    """An evaluation knows no objects, so that a source names no candidates: the rule is to find them."""
    if s.given.prior is None:
        return s
    return replace(s, given=replace(s.given, prior=replace(s.given.prior, candidate_gt_BQ=None)))
