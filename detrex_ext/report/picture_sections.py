"""Sections of the report that are images: the worst ones beside their truth, stages, sampling points."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..analysis.sampling import Points
from ..analysis.stages.matching import FALSE
from ..data.read import UnreadableImage, read_image
from ..visualization import draw_boxes
from .detections import Detections, ImageDetections
from .html import Html, el
from .pictures import Pictures
from .stages import DRAWN, Followed, StageLook, point_panels, stage_panels

logger = logging.getLogger(__name__)
_GREEN, _RED, _ORANGE, _GRAY = (46, 125, 50), (209, 73, 91), (224, 142, 11), (120, 135, 150)
_MOST_BOXES = 60
Opened = tuple[np.ndarray, str]
"""An image, and its name to be shown."""


def worst_section(
    detections: Detections, count: int, opened: Callable[[int], Opened | None], pictures: Pictures
) -> Html:
    """The images with most errors: truth on the left, what is shown on the right."""
    worst = detections.worst(count)
    if not worst:
        return el("p", "There is no error at this threshold.", class_="muted")
    rows = []
    for x in worst:
        missed, false = x.errors(detections.threshold)
        if (found := opened(x.image)) is None:
            continue
        image, name = found
        label = f"{name}: {missed} missed, {false} false"
        truth, shown = _pair(image, x, detections)
        pair = pictures.img(truth, f"truth of {name}"), pictures.img(shown, f"found in {name}")
        rows.append(el("figure", el("div", *pair, class_="pair"), el("figcaption", label)))
    if not rows:
        return el("p", "The images cannot be read from here.", class_="muted")
    told = (
        f"Most errors first, at the score threshold {detections.threshold:.3g}. Left the truth: green found, orange "
        "missed, gray crowd regions. Right what is shown: green right, red false, gray not counted."
    )
    return el("div", el("p", told), el("div", *rows, class_="row"))


def _pair(image: np.ndarray, x: ImageDetections, detections: Detections) -> tuple[Image.Image, Image.Image]:
    names = detections.class_names
    image, scale = _smaller(image)
    xywh = x.objects.xywh_G4[:_MOST_BOXES]
    boxes_G4 = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1) * scale
    found = x.found(detections.threshold)[:_MOST_BOXES]
    state_G = np.where(x.objects.crowd_G[:_MOST_BOXES], 2, np.where(found, 0, 1))
    truth = _drawn(image, boxes_G4, x.objects.class_G[:_MOST_BOXES], state_G, names, (_GREEN, _ORANGE, _GRAY))
    shown = np.flatnonzero(x.shown(detections.threshold))[:_MOST_BOXES]
    object_P = x.object_P[shown]
    state_P = np.where(object_P >= 0, 0, np.where(object_P == FALSE, 1, 2))
    labels, scores = x.class_P[shown], x.score_P[shown]
    return truth, _drawn(image, x.xyxy_P4[shown] * scale, labels, state_P, names, (_GREEN, _RED, _GRAY), scores)


def _drawn(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, state: np.ndarray, names: Sequence[str],
    inks: Sequence[tuple[int, int, int]], scores: np.ndarray | None = None,
) -> Image.Image:  # fmt: skip
    """Boxes colored by their state; a state is so many classes further on."""
    size = len(names)
    colors = {k + size * s: ink for s, ink in enumerate(inks) for k in set(labels.tolist())}
    return draw_boxes(image, boxes, labels + size * state, [*names] * len(inks), scores, colors, DRAWN)


def _smaller(image: np.ndarray, longest: int = DRAWN) -> tuple[np.ndarray, float]:
    """An image to draw on, and its scale: lines and names are drawn for the size that is shown."""
    scale = min(longest / max(image.shape[:2]), 1.0)
    if scale == 1.0:
        return image, 1.0
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)), scale


def stages_section(
    look: StageLook, count: int, names: Sequence[str], opened: Callable[[int], Opened | None], pictures: Pictures
) -> Html:
    """Recall by stage, and the images that lost most by fading at every stage."""
    recall = ", ".join(f"{100 * share:.0f} %" for share in look.recall_L())
    low, middle, high = look.score_range()
    same = 100 * np.mean(look.same)
    told = [el("p", f"On {len(look.looked)} images: a query is at {recall} of the objects by stage (IoU 0.5, whatever "
                    f"its class and score); scores of the last stage {low:.2g} to {high:.2g}, middle {middle:.2g}; "
                    f"{same:.0f} % of its boxes are the same as another of their image. "
                    "Red: hits that have faded (an earlier stage had the object as well, with a higher score); green: "
                    "the queries with the highest scores.")]  # fmt: skip
    for followed in look.worst(count):
        if (found := opened(followed.image)) is None:
            continue
        image, name = found
        image, scale = _smaller(image)
        scaled = Followed(followed.image, followed.boxes_LF4 * scale, followed.score_LF, followed.class_LF,
                          followed.faded_F)  # fmt: skip
        told.append(el("h3", f"{name}: {int(followed.faded_F.sum())} faded hits"))
        told.append(_row(stage_panels(image, scaled, names), pictures))
    return el("div", *told)


def points_section(stages: Sequence[Points], image: Opened, pictures: Pictures) -> Html:
    """Where the best query of an image samples at every stage."""
    pixels, name = image
    told = (f"{name}: the query with the highest score. Its box before (gray) and after (green) each stage; dots are "
            "where it samples, larger and darker where it weighs more.")  # fmt: skip
    return el("div", el("p", told), _row(point_panels(pixels, stages), pictures))


def _row(panels: Sequence[Image.Image], pictures: Pictures) -> Html:
    shown = [el("figure", pictures.img(panel, f"stage {i}", 420), el("figcaption", f"stage {i}"))
             for i, panel in enumerate(panels, 1)]  # fmt: skip
    return el("div", *shown, class_="row stages")


def opener(files: dict[int, str]) -> Callable[[int], Opened | None]:
    """Reads an image by its index; None where it cannot be. None is kept: photographs are large."""

    def opened(image: int) -> Opened | None:
        if not files.get(image):
            return None
        try:
            return read_image(files[image]), Path(files[image]).name
        except UnreadableImage as error:
            logger.debug("%s", error)
            return None

    return opened
