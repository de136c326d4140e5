"""What `predict` makes of an image: drawn, beside the ground truth if there is one, and as a row of its JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.data.ground_truth import read_ground_truth
from detrex_ext.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from detrex_ext.runtime import Instances


class Truth:
    """Boxes of a COCO file by the name of the image.

    Raises:
        UserError: a file with errors, or one that has none of the images.
    """

    def __init__(self, path: str, files: list[Path]) -> None:
        self.truth = read_ground_truth(path, sound=True)
        names = [image["file_name"] for image in self.truth.images]
        self.images = {Path(name).parts: i for i, name in enumerate(names)}
        if all(self.of(file) is None for file in files):
            what = f"none of the images is in it, as {files[0]}; its first is {names[0]}"
            raise UserError(f"--ground-truth {path}: {what}")

    def of(self, file: Path) -> tuple[list, list[int], list[str]] | None:
        """(XYXY boxes, class indices, class names) of an image; None for one that the JSON does not have."""
        parts = file.absolute().parts
        # The longest name first: "a/1.jpg" is told from "b/1.jpg" where the JSON has both.
        keys = [parts[-n:] for n in range(len(parts), 0, -1)]
        image = next((self.images[k] for k in keys if k in self.images), None)
        if image is None:
            return None
        xywh_G4, class_G, _ = self.truth.objects_of(image)
        boxes = [[x, y, x + w, y + h] for x, y, w, h in xywh_G4.tolist()]
        return boxes, class_G.tolist(), self.truth.classes.names


def draw(image: np.ndarray, found: Instances, names: list[str], truth: Truth | None, file: Path) -> Image.Image:
    """The image with what was found on it, and beside it what is true where that is known."""
    from detrex_ext.visualization import beside, draw_boxes

    boxes, classes, scores = found.pred_boxes.tensor.tolist(), found.pred_classes.tolist(), found.scores.tolist()
    drawn = draw_boxes(image, boxes, classes, names, scores)
    known = None if truth is None else truth.of(file)
    if known is None:
        return drawn
    return beside([drawn, draw_boxes(image, *known)], ["predicted", "ground truth"])


def row_of(file: Path, found: Instances, names: list[str]) -> dict:
    """What `predictions.json` says about an image."""
    height, width = found.image_size
    return {
        "file": os.fspath(file),
        "width": width,
        "height": height,
        "boxes": [[round(v, 2) for v in box] for box in found.pred_boxes.tensor.tolist()],
        "scores": [round(v, 4) for v in found.scores.tolist()],
        "classes": [names[k] for k in found.pred_classes.tolist()],
    }
