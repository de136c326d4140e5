"""Queries of one object before and after self- and cross-attention, a stage in a row."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..visualization import below, beside, draw_boxes
from .attention import MOMENTS, Gathering

_WHITE = (255, 255, 255)
_SIDES, _LEAST = 3.0, 32  # a panel shows so many times the longer side of the object, and so many pixels


def draw_gathering(image: np.ndarray, found: Gathering) -> Image.Image:
    """One picture of all moments: a query has its number and colour in all of them; the object, in white, is amid them.

    Args:
        image: RGB, of any size; the surroundings of the object are shown.
        found: of this picture.
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
    """Corners (x, y) of a square around an XYXY box in pixels, as far as it is on the picture."""
    centre, side = (box_4[:2] + box_4[2:]) / 2, max(_SIDES * (box_4[2:] - box_4[:2]).max(), _LEAST)
    low, high = np.floor(centre - side / 2).clip(0), np.ceil(centre + side / 2)
    return low.astype(int), np.minimum(high.astype(int), [width, height])
