"""A COCO-format data set: its records and its image files."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from detrex_ext.data.file_names import FileNames, leads_out, parts_of
from detrex_ext.data.ground_truth import GroundTruth, read_ground_truth
from detrex_ext.data.records import Records, sizes_of
from detrex_ext.data.report import Report
from detrex_ext.errors import UserError
from detrex_ext.runtime import BoxMode

logger = logging.getLogger(__name__)

_MODE = int(BoxMode.XYWH_ABS)


class CocoDataset(Records):
    """Images and boxes of one annotation file; classes are numbered by ascending category id.

    The file's inside is checked whole when it is opened; image files are not touched (`check_before_training`,
    `check_dataset` do that). Reading gives dicts in detectron2's layout: file_name, height, width, image_id and
    annotations (each with bbox [x, y, w, h] in pixels, bbox_mode, category_id = class index, iscrowd), by ascending
    image id.

    Args:
        json: COCO annotation file.
        images: folder its file names are relative to; None or "": found beside the JSON.
        filter_empty: leave out images without a box that is not crowd (training on COCO); by default they stay, as
            background.
        outside_images: file names may lead out of the folder.

    Attributes:
        class_names, category_ids: by class index.
        sizes_N2: (N, 2) int64 height, width of each record.
        report: the `Report` of the JSON.

    Raises:
        UserError: the JSON is missing or inconsistent, the folder is missing, or a name leads out of it.
    """

    def __init__(
        self,
        json: str | Path,
        images: str | Path | None = None,
        filter_empty: bool = False,
        outside_images: bool = False,
    ) -> None:
        self.truth = truth = read_ground_truth(json, sound=True)
        self.json, self.report = str(json), copy.deepcopy(truth.report)
        self.images, self.outside_images = str(find_images(truth, images)), outside_images
        if not outside_images:
            check_inside((image["file_name"] for image in truth.images), self.images, self.report)
            self.report.raise_errors({"outside_file"})
        self.class_names, self.category_ids = map(list, truth.classes)
        self._kept = np.arange(len(truth.images))
        if filter_empty:
            boxes = truth.boxes
            self._kept = self._kept[:0] if boxes is None else np.unique(boxes.image_P[~boxes.crowd_P])
            left_out = len(truth.images) - len(self._kept)
            if left_out:
                logger.info("%s: %d of %d images have no boxes, left out", json, left_out, len(truth.images))
        self.sizes_N2 = sizes_of(self._with_path(i) for i in range(len(self)))

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"CocoDataset({self.json}: {len(self)} images, {len(self.class_names)} classes)"

    @property
    def records(self) -> CocoDataset:
        """The records are the data set's own."""
        return self

    def read(self, index: int) -> dict:
        """The record of an image, with its annotations."""
        record = self._with_path(index)
        record["height"], record["width"] = self.sizes_N2[index].tolist()
        columns = (column.tolist() for column in self.truth.objects_of(self._kept[index]))
        record["annotations"] = [
            {"bbox": box, "bbox_mode": _MODE, "category_id": class_, "iscrowd": int(crowd)}
            for box, class_, crowd in zip(*columns, strict=True)
        ]
        return record

    def image(self, index: int) -> dict:
        """What the file says of an image, with the name as it is there."""
        return self.truth.images[self._kept[index]]

    def _with_path(self, index: int) -> dict:
        image = self.image(index)
        return {**image, "file_name": str(Path(self.images) / image["file_name"])}


def check_inside(names: Iterable[str], folder: str, report: Report) -> set[str]:
    """Adds to the report the names that lead out of a folder to what is there, and gives them; nothing is opened."""
    out = {name for name in names if leads_out(folder, name) and os.path.lexists(os.path.join(folder, name))}
    for name in sorted(out):
        report.add("outside_file", os.path.normpath(os.path.join(folder, name)))
    return out


def find_images(truth: GroundTruth, images: str | Path | None) -> Path:
    """The folder that the file names of an annotation file are relative to.

    Raises:
        UserError: `images` is no folder; or it was not given and no usual place holds the first image.
    """
    if images:
        if not Path(images).is_dir():
            raise UserError(f"image folder not found: {images}\n  wanted by {truth.json}; set dataset.train_images / "
                            "dataset.val_images, or check --images")  # fmt: skip
        return Path(images)
    json = Path(truth.json)
    first = next((image["file_name"] for image in truth.images if image["file_name"]), "")
    base, stem = json.parent, json.stem.removeprefix("instances_")
    places = [base, base / "images", base / stem, base / "images" / stem]
    places += [base.parent, base.parent / "images", base.parent / stem, base.parent / "images" / stem]
    for place in places:
        if first and os.path.isfile(place / first):
            return place
    for place in places if first else ():  # one that holds it under another name
        if os.path.isfile(place.joinpath(*parts_of(first))) or FileNames(place, deep=False).find(first):
            return place
    looked = "\n".join(f"    {place}" for place in dict.fromkeys(places))
    raise UserError(f"{json}: its first image, {first}, is in none of\n{looked}\n"
                    "  name the folder: dataset.train_images / dataset.val_images, or check --images")  # fmt: skip
