"""Ground truth to be drawn beside predictions."""

from __future__ import annotations

from pathlib import Path

from detrex_ext.errors import UserError


class Truth:
    """Boxes of a COCO file by the name of the image.

    Raises:
        UserError: a file with errors, or one that has none of the images.
    """

    def __init__(self, path: str, files: list[Path]) -> None:
        from detrex_ext.data.ground_truth import read_ground_truth

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
