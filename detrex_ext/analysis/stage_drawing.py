"""Faded matches of a picture, stage beside stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..visualization import beside, draw_boxes
from .stage_matching import Objects
from .stage_picture import Fadings


def draw_fadings(image: np.ndarray, fadings: Fadings, objects: Objects, class_names: Sequence[str]) -> Image.Image:
    """The objects whose matches faded, then what their queries said at each stage.

    Args:
        image: RGB, in the size that boxes refer to.
        fadings: of this picture.
        objects: its ground truth.
        class_names: by class index.
    """
    xywh_F4 = objects.xywh_G4[fadings.object_F]
    truth_F4 = np.concatenate([xywh_F4[:, :2], xywh_F4[:, :2] + xywh_F4[:, 2:]], 1)
    panels = [draw_boxes(image, truth_F4, objects.class_G[fadings.object_F], class_names)]
    rows = zip(fadings.boxes_LF4, fadings.class_LF, fadings.score_LF, strict=True)
    panels += [draw_boxes(image, boxes, classes, class_names, scores) for boxes, classes, scores in rows]
    return beside(panels, ["objects", *(f"stage {i}" for i in range(1, len(panels)))])
