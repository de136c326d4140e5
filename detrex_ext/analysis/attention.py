"""What self- and cross-attention do to the queries of one object, stage by stage.

Shape legend: B images, T tokens, Q queries, N of them chosen, K classes, C channels, M moments (three of each stage).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers.box_ops import box_cxcywh_to_xyxy, box_iou_pairwise
from ..modeling.decoders.staged import StagedDecoder
from ..modeling.postprocess import class_scores
from ..structures import Memory, Queries

MOMENTS = ("before", "after self-attention", "after cross-attention")


@dataclass
class Moment:
    """The main queries of the first picture at a point of a stage, as the stage's heads read them.

    Attributes:
        stage: from 1.
        name: of ``MOMENTS``.
        score_QK, boxes_Q4: probabilities of the object classes, and normalised XYXY boxes.
        content_QC: query content.
    """

    stage: int
    name: str
    score_QK: Tensor
    boxes_Q4: Tensor
    content_QC: Tensor


@contextmanager
def watch_attention(decoder: StagedDecoder) -> Iterator[list[Moment]]:
    """Gives a list that fills while the decoder runs, three moments a stage; its outcome is not changed."""
    moments: list[Moment] = []
    self_attend, cross_attend, entered = decoder.self_attend, decoder.cross_attend, []

    def note_self(layer: int, x: Queries) -> Queries:
        entered[:] = [x]
        return self_attend(layer, x)

    def note_cross(layer: int, x: Queries, kv: Any, mem: Memory) -> Queries:
        out, stage = cross_attend(layer, x, kv, mem), len(moments) // len(MOMENTS) + 1
        for name, at in zip(MOMENTS, (entered[0], x, out), strict=True):
            logits, boxes, _ = decoder.predict(layer, at, mem)
            (main,) = [slice(a, b) for s, a, b in at.spans() if (s.group, s.path) == ("main", "plain")]
            rows = class_scores(logits[0, main], decoder.softmax), box_cxcywh_to_xyxy(boxes[0, main].float())
            moments.append(Moment(stage, name, *rows, at.content_BTC[0, main].float()))
        return out

    decoder.self_attend, decoder.cross_attend = note_self, note_cross
    try:
        yield moments
    finally:
        del decoder.self_attend, decoder.cross_attend


@dataclass
class Gathering:
    """The queries of one object.

    Attributes:
        moments: of all stages.
        query_N: the queries that come nearest to the object after the cross-attention of any stage, nearest first.
        iou_MQ: overlap of every query with the object.
        box_4, label, score: the object's normalised XYXY box, class and score.
    """

    moments: list[Moment]
    query_N: Tensor
    iou_MQ: Tensor
    box_4: Tensor
    label: int
    score: float

    def rows(self, near: float = 0.5) -> list[dict[str, Any]]:
        """Of each moment: ``near``, queries that overlap the object more than so; of ``query_N`` alone ``iou``, the
        mean overlap, ``score`` of the object's class, and ``similarity``, the mean cosine of their contents."""
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
        box_4, label, score: the object's normalised XYXY box, class and score.
        count: queries to choose at most.
    """
    iou_MQ = torch.stack([box_iou_pairwise(m.boxes_Q4, box_4[None].to(m.boxes_Q4))[:, 0] for m in moments])
    nearest_Q = iou_MQ[len(MOMENTS) - 1 :: len(MOMENTS)].amax(0)
    order = nearest_Q.argsort(descending=True, stable=True)
    return Gathering(moments, order[:count], iou_MQ, box_4, label, score)
