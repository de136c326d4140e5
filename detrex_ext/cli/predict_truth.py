"""What `predict` draws of an image, beside the ground truth if there is one."""

from __future__ import annotations

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

    @property
    def next_id(self) -> int:
        """An id that none of its images has, nor any above it."""
        return 1 + max((i for i in self.truth.image_ids if isinstance(i, int)), default=0)

    def id_of(self, file: Path) -> int | str | None:
        """The id of an image; None for one that the JSON does not have."""
        index = self._index(file)
        return None if index is None else self.truth.image_ids[index]

    def of(self, file: Path) -> tuple[list, list[int], list[str]] | None:
        """(XYXY boxes, class indices, class names) of an image; None for one that the JSON does not have."""
        image = self._index(file)
        if image is None:
            return None
        xywh_G4, class_G, _ = self.truth.objects_of(image)
        boxes = [[x, y, x + w, y + h] for x, y, w, h in xywh_G4.tolist()]
        return boxes, class_G.tolist(), self.truth.classes.names

    def _index(self, file: Path) -> int | None:
        parts = file.absolute().parts
        # The longest name first: "a/1.jpg" is told from "b/1.jpg" where the JSON has both.
        keys = [parts[-n:] for n in range(len(parts), 0, -1)]
        return next((self.images[k] for k in keys if k in self.images), None)


def draw(image: np.ndarray, found: Instances, names: list[str], truth: Truth | None, file: Path) -> Image.Image:
    """The image with what was found on it, and beside it what is true where that is known."""
    from detrex_ext.visualization import beside, draw_boxes

    boxes, classes, scores = found.pred_boxes.tensor.tolist(), found.pred_classes.tolist(), found.scores.tolist()
    drawn = draw_boxes(image, boxes, classes, names, scores)
    known = None if truth is None else truth.of(file)
    if known is None:
        return drawn
    return beside([drawn, draw_boxes(image, *known)], ["predicted", "ground truth"])
