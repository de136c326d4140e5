"""A COCO annotation file, read once for training, evaluation, checking and drawing.

Shape legend: N images, P boxes.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from detrex_ext.data.checks import CATEGORY_ERRORS, check_annotations, check_categories, check_images
from detrex_ext.data.json_file import read_json
from detrex_ext.data.records import Classes, PackedRecords
from detrex_ext.data.report import Report
from detrex_ext.data.values import is_id, is_size, whole
from detrex_ext.errors import UserError


@dataclass
class BoxTable:
    """Boxes of many images.

    Attributes:
        image_P: int64, index of the image.
        class_P: int64, index of the class.
        xywh_P4: float64, pixels.
        score_P: float64 for detections; None for ground truth.
        area_P, crowd_P, learned_P: for ground truth, area in pixels, whether it is a crowd region, and whether
            training learns it (it is none, and is on the image).
    """

    image_P: np.ndarray
    class_P: np.ndarray
    xywh_P4: np.ndarray
    score_P: np.ndarray | None = None
    area_P: np.ndarray | None = None
    crowd_P: np.ndarray | None = None
    learned_P: np.ndarray | None = None


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for circles: among millions of rows that hold none, it would take half of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


class GroundTruth:
    """Images, classes and boxes of an annotation file; `read_ground_truth` gives the one that is read already.

    Only a file that is none is refused here; `report` says what else is wrong with it. Shared, so not to be changed.

    Args:
        json: COCO annotation file.

    Attributes:
        classes: by ascending category id.
        image_ids: ascending, numbers before texts; images are numbered by it.
        images: N dicts of image_id, file_name, height and width, as the file has them; None where it has not.
        boxes: in the order of the file, those of its images and classes; area is width x height where it names none.
            None where the file has no annotations at all.
        report: what the check of the file's inside found.

    Raises:
        UserError: the file is missing, no JSON, or not shaped as COCO's ({"images", "annotations", "categories"}).
    """

    @uncollected()
    def __init__(self, json: str | Path) -> None:
        self.json = str(json)
        data = read_json(json)
        entries, annotations = data["images"], data.get("annotations", [])
        self.report = report = Report(self.json, num_images=len(entries), num_annotations=len(annotations))
        names = check_categories(data, report)
        self.classes = Classes(list(names.values()), list(names))
        usable = check_images(entries, report)
        known = {whole(e["id"]): e for e in entries if is_id(e.get("id"))}
        self.image_ids = sorted(known, key=lambda i: (isinstance(i, str), i))
        self._index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self.images = PackedRecords(_image(known[image_id], image_id) for image_id in self.image_ids)
        self.boxes: BoxTable | None = None
        if "categories" in data:
            columns = check_annotations(annotations, usable, self._index, names, report)
            self.boxes = BoxTable(**columns) if annotations else None
        image_P = np.zeros(0, dtype=np.int64) if self.boxes is None else self.boxes.image_P
        self._order = np.argsort(image_P, kind="stable")
        self._ends = np.searchsorted(image_P[self._order], np.arange(len(self.image_ids) + 1))

    def index_of(self, given: Mapping[str, Any]) -> int:
        """Index of the image of an input dict, by its ``image_id``.

        Raises:
            UserError: the file does not have it.
        """
        image = self._index.get(given.get("image_id"))
        if image is None:
            raise UserError(
                f"image id {given.get('image_id')} ({given.get('file_name', 'no file name')}) is not in {self.json}\n"
                "  the evaluator and the loader need the same annotation file: set dataset.val_json"
            )
        return image

    def check_classes(self, count: int) -> None:
        """Raises a ``UserError`` where a model predicts another number of classes."""
        if count != len(self.classes.names):
            raise UserError(f"the model has {count} classes, {self.json} has {len(self.classes.names)}")

    def objects_of(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """xywh_G4, class_G and crowd_G of the boxes of an image, in the order of the file."""
        boxes, rows = self.boxes, self._order[self._ends[image] : self._ends[image + 1]]
        if boxes is None:
            return np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        return boxes.xywh_P4[rows], boxes.class_P[rows], boxes.crowd_P[rows]


_READ: WeakValueDictionary[tuple, GroundTruth] = WeakValueDictionary()


def read_ground_truth(json: str | Path | GroundTruth, sound: bool = False) -> GroundTruth:
    """The ground truth of a file: what holds it already in this process shares it, if the file is as it was.

    Args:
        json: annotation file, or what was read of one.
        sound: refuse every error in it, not only categories that cannot be used.

    Raises:
        UserError: the file is missing, no COCO JSON, or has such errors.
    """
    if not isinstance(json, GroundTruth):
        try:
            stat = os.stat(json or "")
            key = (os.path.realpath(json), stat.st_mtime_ns, stat.st_size)
        except OSError:
            key = None  # reading it tells why
        truth = _READ.get(key) or GroundTruth(json)
        if key:
            _READ[key] = truth
        json = truth
    json.report.raise_errors(None if sound else CATEGORY_ERRORS)
    return json


def read_classes(json: str | Path) -> Classes:
    """The classes of an annotation file, by ascending category id; raises as `read_ground_truth`."""
    return read_ground_truth(json).classes


def _image(entry: dict, image_id: Any) -> dict:
    sizes = {key: int(entry[key]) if is_size(entry.get(key)) else None for key in ("height", "width")}
    name = entry.get("file_name")
    return {"file_name": name if isinstance(name, str) else "", **sizes, "image_id": image_id}
