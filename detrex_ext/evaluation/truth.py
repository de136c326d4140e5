"""An annotation file as evaluators need it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.coco_json import check_categories, class_table, is_box, read_json
from ..data.report import Report
from ..errors import UserError
from .figures import BoxTable


class GroundTruth:
    """Images, classes and boxes of a COCO file.

    Args:
        json: the file.

    Attributes:
        class_names, category_ids: by class index.
        image_ids: ascending; evaluators number images by it.
        boxes: of all images; None where the file has no annotations at all.

    Raises:
        UserError: the file is missing or has no usable categories.
    """

    def __init__(self, json: str | Path) -> None:
        self.json = str(json)
        data = read_json(json)
        report = Report(json=self.json)
        check_categories(data, report)
        report.raise_errors()
        self.class_names, self.category_ids = class_table(data)
        self.image_ids = sorted({image["id"] for image in data["images"]}, key=lambda i: (isinstance(i, str), i))
        self._index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        rows = data.get("annotations")
        self.boxes = self._table(rows) if rows else None
        image_P = np.zeros(0, dtype=np.int64) if self.boxes is None else self.boxes.image_P
        self._order = np.argsort(image_P, kind="stable")
        self._ends = np.searchsorted(image_P[self._order], np.arange(len(self.image_ids) + 1))

    def index_of(self, given: Mapping[str, Any]) -> int:
        """Index of the image of an input dict, by its ``image_id``.

        Raises:
            UserError: the file does not have it.
        """
        image = self._index.get(given["image_id"])
        if image is None:
            raise UserError(
                f"image id {given['image_id']} ({given.get('file_name', 'no file name')}) is not in {self.json}\n"
                "  the evaluator and the loader need the same annotation file: set dataset.val_json"
            )
        return image

    def rows_of(self, image: int) -> np.ndarray:
        """Where the boxes of an image stand in ``boxes``, in the order of the file."""
        return self._order[self._ends[image] : self._ends[image + 1]]

    def _table(self, annotations: list[dict]) -> BoxTable:
        """Boxes of the file's images; area is width x height where the file names none."""
        classes = {category_id: k for k, category_id in enumerate(self.category_ids)}
        rows = [
            a
            for a in annotations
            if a.get("image_id") in self._index and a.get("category_id") in classes and is_box(a.get("bbox"))
        ]
        xywh = np.array([a["bbox"] for a in rows], dtype=np.float64).reshape(-1, 4)
        area = [a["area"] if isinstance(a.get("area"), (int, float)) else a["bbox"][2] * a["bbox"][3] for a in rows]
        return BoxTable(
            np.array([self._index[a["image_id"]] for a in rows], dtype=np.int64),
            np.array([classes[a["category_id"]] for a in rows], dtype=np.int64),
            xywh,
            area_P=np.array(area, dtype=np.float64),
            crowd_P=np.array([bool(a.get("iscrowd", 0)) for a in rows], dtype=bool),
        )
