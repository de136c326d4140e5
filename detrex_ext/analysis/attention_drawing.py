"""Queries of one object before and after self- and cross-attention, a stage in a row."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..visualization import below, beside, draw_boxes
from .attention import MOMENTS, Gathering


def draw_gathering(image: np.ndarray, found: Gathering) -> Image.Image:
    """One picture of all moments: a query has its number and colour in all of them; the object stands among them.

    Args:
        image: RGB, of any size.
        found: of this picture.
    """
    height, width = image.shape[:2]
    names, rows = [*(f"q{q}" for q in found.query_N.tolist()), "object"], []
    order = [len(names) - 1, *range(len(names) - 1)]
    for moment, values in zip(found.moments, found.rows(), strict=True):
        boxes = np.concatenate([found.box_4[None].cpu(), moment.boxes_Q4[found.query_N].cpu()])
        scores = [found.score, *moment.score_QK[found.query_N, found.label].tolist()]
        drawn = draw_boxes(image, boxes * (width, height, width, height), order, names, scores)
        title = f"stage {moment.stage} {moment.name}: {values['near']} near, similarity {values['similarity']:.2f}"
        rows.append((drawn, title))
    stages = [rows[i : i + len(MOMENTS)] for i in range(0, len(rows), len(MOMENTS))]
    return below([beside(*zip(*stage, strict=True)) for stage in stages])
