"""Where a query samples the image, stage by stage, of hosts that sample.

Shape legend: B images, T tokens, Q queries, N points of all heads or groups, levels and places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layers.box_ops import box_cxcywh_to_xyxy
from ..layers.xyzr import xyzr_to_boxes
from ..modeling.decoders.adamixer import AdaMixerDecoder
from ..modeling.decoders.deformable import DeformableDecoder
from ..modeling.detector import Detector
from ..modeling.postprocess import class_scores
from ..structures import Memory, Queries


@dataclass
class Points:
    """A query at a stage; everything as shares of the image, x before y.

    Attributes:
        before_4, after_4: its XYXY box before and after the stage.
        at_N2: sampling points; some may be outside of the image.
        weight_N: how much each counts, where the host weighs them.
    """

    before_4: np.ndarray
    after_4: np.ndarray
    at_N2: np.ndarray
    weight_N: np.ndarray


@torch.no_grad()
def sampling_points(model: Detector, batched_inputs: list[dict[str, Any]]) -> list[Points]:
    """The query with the highest score at the last stage, at every stage; [] where the host does not sample.

    Args:
        model: in evaluation mode.
        batched_inputs: as a model takes them; the first image is looked at.
    """
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, DeformableDecoder | AdaMixerDecoder):
        return []
    images, _ = model.inputs(batched_inputs)
    q, mem, _ = model.encode(images.images_B3HW, images.valid_hw_B2)
    mem, stages = decoder.prepare(mem), []
    for layer in decoder.eval_order:
        x = decoder.self_attend(layer, decoder.condition(layer, q, mem))
        places = _points(decoder, layer, x, mem)
        x = decoder.cross_attend(layer, x, decoder.project(layer, mem), mem)
        before = _reference(decoder, x, mem)
        logits, boxes, q = decoder.predict(layer, x, mem)
        (main,) = [slice(a, b) for s, a, b in x.spans() if (s.group, s.path) == ("main", "plain")]
        stages.append((*(t[0, main] for t in (*places, before, boxes)), class_scores(logits[0, main], decoder.softmax)))
    best = int(stages[-1][-1].amax(-1).argmax())
    return [
        Points(_box(before[best]), _box(boxes[best]), _flat(at[best], 2), _flat(weight[best], 1)[:, 0])
        for at, weight, before, boxes, _ in stages
    ]


def _points(decoder: Any, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor]:
    """Points (B, T, ..., 2) as shares of the image, and their weights (B, T, ...)."""
    if isinstance(decoder, DeformableDecoder):
        at, weight = decoder.sampled(layer, x, mem)
        return at / mem.valid_BL2[:, None, None, :, None], weight
    points = decoder.sampled(layer, x)
    size = mem.image_hw_B2.flip(1)[:, None, None, None]
    return points[..., :2] / size, torch.ones_like(points[..., 0])


def _reference(decoder: Any, x: Queries, mem: Memory) -> Tensor:
    """(B, T, 4) box that the stage starts from, normalized CXCYWH."""
    ref = x.extra["_ref"]
    if isinstance(decoder, DeformableDecoder):
        return ref
    return xyzr_to_boxes(ref) / mem.image_hw_B2.flip(1).repeat(1, 2)[:, None]


def _box(cxcywh_4: Tensor) -> np.ndarray:
    return box_cxcywh_to_xyxy(cxcywh_4.float()).cpu().numpy()


def _flat(values: Tensor, size: int) -> np.ndarray:
    return values.float().reshape(-1, size).cpu().numpy()
