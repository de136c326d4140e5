"""What self- and cross-attention do to the queries of one object, stage by stage.

Shape legend: B images, T tokens, Q queries, N of them chosen, K classes, C channels, M moments (three of each stage).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..layers.box_ops import box_cxcywh_to_xyxy, box_iou_pairwise
from ..modeling.decoders.staged import StagedDecoder
from ..modeling.detector import Detector
from ..modeling.postprocess import class_scores
from ..runtime import Instances
from ..structures import Memory, Queries, SupervisedSet
from ..visualization import below, beside, draw_boxes

MOMENTS = ("before", "after self-attention", "after cross-attention")
_WHITE = (255, 255, 255)
_SIDES, _LEAST = 3.0, 32  # a panel shows so many times the longer side of the object, and so many pixels


@dataclass
class Moment:
    """The main queries of the first image at a point of a stage, as the stage's heads read them.

    Attributes:
        stage: from 1.
        name: of ``MOMENTS``.
        score_QK, boxes_Q4: probabilities of the object classes, and normalized XYXY boxes.
        content_QC: query content.
    """

    stage: int
    name: str
    score_QK: Tensor
    boxes_Q4: Tensor
    content_QC: Tensor


@torch.no_grad()
def watch_attention(
    model: Detector, batched_inputs: list[dict[str, Any]]
) -> tuple[list[dict[str, Instances]], list[Moment]]:
    """What a model predicts, and the moments that it comes from, three a stage, from one pass.

    Args:
        model: in evaluation mode.
        batched_inputs: as a model takes them; the moments are those of the first image.

    Raises:
        UserError: the model has no staged decoder.
    """
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, StagedDecoder):
        raise UserError(f"{type(model).__name__} has no staged decoder, whose attention could be watched")
    images, _ = model.inputs(batched_inputs)
    q, mem, sets = model.encode(images.images_B3HW, images.valid_hw_B2)
    mem, moments = decoder.prepare(mem), []
    for step, layer in enumerate(decoder.eval_order):
        before = decoder.condition(layer, q, mem)
        apart = decoder.self_attend(layer, before)
        for name, x in zip(MOMENTS, (before, apart, _cross_attend(decoder, layer, apart, mem)), strict=True):
            logits, boxes, q = decoder.predict(layer, x, mem)
            (main,) = [slice(a, b) for s, a, b in x.spans() if (s.group, s.path) == ("main", "plain")]
            scores_QK = class_scores(logits[0, main], decoder.softmax)
            boxes_Q4 = box_cxcywh_to_xyxy(boxes[0, main].float())
            moments.append(Moment(step + 1, name, scores_QK, boxes_Q4, x.content_BTC[0, main].float()))
        sets.append(SupervisedSet(logits[:, main], boxes[:, main], step, softmax=decoder.softmax))
    return model.postprocess(sets, images.image_hw_B2, batched_inputs), moments


def _cross_attend(decoder: StagedDecoder, layer: int, x: Queries, mem: Memory) -> Queries:
    return decoder.cross_attend(layer, x, decoder.project(layer, mem), mem)


@dataclass
class Gathering:
    """The queries of one object.

    Attributes:
        moments: of all stages.
        query_N: the queries that come nearest to the object after the cross-attention of any stage, nearest first.
        iou_MQ: overlap of every query with the object.
        box_4, label, score: the object's normalized XYXY box, class and score.
    """

    moments: list[Moment]
    query_N: Tensor
    iou_MQ: Tensor
    box_4: Tensor
    label: int
    score: float

    def rows(self, near: float = 0.5) -> list[dict[str, Any]]:
        """What is counted of each moment.

        ``near``: queries that overlap the object by more than that; of ``query_N`` alone ``iou``, the mean overlap,
        ``score`` of the object's class, and ``similarity``, the mean cosine of their contents.
        """
        rows, n = [], len(self.query_N)
        for m, iou_Q in zip(self.moments, self.iou_MQ, strict=True):
            unit_NC = torch.nn.functional.normalize(m.content_QC[self.query_N].double(), dim=-1)
            others = (unit_NC @ unit_NC.T).sum() - unit_NC.square().sum()
            values = {
                "near": int((iou_Q > near).sum()),
                "iou": float(iou_Q[self.query_N].mean()),
                "score": float(m.score_QK[self.query_N, self.label].mean()),
                "similarity": float(others / max(n * (n - 1), 1)),
            }
            rows.append({"stage": m.stage, "moment": m.name, **values})
        return rows


def gather(moments: list[Moment], box_4: Tensor, label: int, score: float, count: int) -> Gathering:
    """The queries of an object.

    Args:
        moments: of ``watch_attention``.
        box_4: the object's normalized XYXY box.
        label: its class.
        score: its score.
        count: queries to choose at most.
    """
    iou_MQ = torch.stack([box_iou_pairwise(m.boxes_Q4, box_4[None].to(m.boxes_Q4))[:, 0] for m in moments])
    nearest_Q = iou_MQ[len(MOMENTS) - 1 :: len(MOMENTS)].amax(0)
    order = nearest_Q.argsort(descending=True, stable=True)
    return Gathering(moments, order[:count], iou_MQ, box_4, label, score)


def draw_gathering(image: np.ndarray, found: Gathering) -> Image.Image:
    """One image of all moments: a query has its number and color in all of them; the object, in white, is amid them.

    Args:
        image: RGB, of any size; the surroundings of the object are shown.
        found: of this image.
    """
    height, width = image.shape[:2]
    size_4 = np.array([width, height, width, height])
    low, high = _surroundings(found.box_4.cpu().numpy() * size_4, width, height)
    shown = image[low[1] : high[1], low[0] : high[0]]
    names, rows = [*(f"q{q}" for q in found.query_N.tolist()), "object"], []
    order = [len(names) - 1, *range(len(names) - 1)]
    for moment, values in zip(found.moments, found.rows(), strict=True):
        boxes = np.concatenate([found.box_4[None].cpu(), moment.boxes_Q4[found.query_N].cpu()]) * size_4
        scores = [found.score, *moment.score_QK[found.query_N, found.label].tolist()]
        drawn = draw_boxes(shown, boxes - np.tile(low, 2), order, names, scores, {order[0]: _WHITE})
        title = f"stage {moment.stage} {moment.name}: {values['near']} near, similarity {values['similarity']:.2f}"
        rows.append((drawn, title))
    stages = [rows[i : i + len(MOMENTS)] for i in range(0, len(rows), len(MOMENTS))]
    return below([beside(*zip(*stage, strict=True)) for stage in stages])


def _surroundings(box_4: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y) of a square around an XYXY box in pixels, as far as it is on the image."""
    center, side = (box_4[:2] + box_4[2:]) / 2, max(_SIDES * (box_4[2:] - box_4[:2]).max(), _LEAST)
    low, high = np.floor(center - side / 2).clip(0), np.ceil(center + side / 2)
    return low.astype(int), np.minimum(high.astype(int), [width, height])
