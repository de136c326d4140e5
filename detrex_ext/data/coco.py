"""A COCO-format data set as a list of records."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from detrex_ext.data.coco_json import check_json, class_table, is_size, read_classes, read_json
from detrex_ext.data.read import image_size
from detrex_ext.data.records import PackedRecords
from detrex_ext.data.report import Report
from detrex_ext.errors import UserError

__all__ = ["CocoDataset", "find_images", "read_classes"]

logger = logging.getLogger(__name__)


class CocoDataset:
    """Images and boxes of one annotation file; classes are numbered by ascending category id.

    The file's inside is checked whole when it is opened; pictures are not touched (`check_before_training`,
    `check_dataset` do that).

    Args:
        json: COCO annotation file.
        images: folder its file names are relative to; None or "": found beside the JSON.
        filter_empty: leave out images without a box that is not crowd (training on COCO); by default they stay, as
            background.

    Attributes:
        records: sequence of dicts in detectron2's layout: file_name, height, width, image_id, annotations (each with
            bbox [x, y, w, h] in pixels, bbox_mode, category_id = class index, iscrowd), by ascending image id.
        class_names, category_ids: by class index.
        sizes_N2: (N, 2) int64 height, width of each record.
        report: the `Report` of the JSON.

    Raises:
        UserError: the JSON is missing or inconsistent, or the folder is missing.
    """

    def __init__(self, json: str | Path, images: str | Path | None = None, filter_empty: bool = False) -> None:
        self.json = str(json)
        data = read_json(json)
        self.report = Report(json=self.json)
        check_json(data, self.report)
        self.report.raise_errors()
        self.images = str(find_images(self.json, images, data["images"]))
        self.class_names, self.category_ids = class_table(data)
        records = self._records(data)
        if filter_empty:
            kept = [r for r in records if any(not a["iscrowd"] for a in r["annotations"])]
            if len(kept) < len(records):
                logger.info("%s: %d of %d images have no boxes, left out", json, len(records) - len(kept), len(records))
            records = kept
        self.sizes_N2 = np.array([[r["height"], r["width"]] for r in records], dtype=np.int64).reshape(-1, 2)
        self.records = PackedRecords(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        return self.records[index]

    def __repr__(self) -> str:
        return f"CocoDataset({self.json}: {len(self)} images, {len(self.class_names)} classes)"

    def _records(self, data: dict) -> list[dict]:
        from detrex_ext.runtime import BoxMode

        mode = int(BoxMode.XYWH_ABS)
        index = {category_id: k for k, category_id in enumerate(self.category_ids)}
        folder = Path(self.images)
        by_image: dict = {image["id"]: self._record(image, folder) for image in data["images"]}
        for ann in data.get("annotations", []):
            record = by_image.get(ann["image_id"])
            if record is not None:
                record["annotations"].append(
                    {
                        "bbox": ann["bbox"],
                        "bbox_mode": mode,
                        "category_id": index[ann["category_id"]],
                        "iscrowd": int(ann.get("iscrowd") or 0),
                    }
                )
        return sorted(by_image.values(), key=lambda r: (isinstance(r["image_id"], str), r["image_id"]))

    @staticmethod
    def _record(image: dict, folder: Path) -> dict:
        path = str(folder / image["file_name"])
        height, width = image.get("height"), image.get("width")
        if not (is_size(height) and is_size(width)):
            height, width = image_size(path)
        return {
            "file_name": path,
            "height": int(height),
            "width": int(width),
            "image_id": image["id"],
            "annotations": [],
        }


def find_images(json: str | Path, images: str | Path | None, entries: list[dict]) -> Path:
    """The folder that the file names of `entries` are relative to.

    Raises:
        UserError: `images` is no folder; or it was not given and no usual place holds the first picture.
    """
    if images:
        if not Path(images).is_dir():
            raise UserError(f"image folder not found: {images}\n  wanted by {json}; set dataset.train_images / "
                            "dataset.val_images, or check --images")  # fmt: skip
        return Path(images)
    json = Path(json)
    first = entries[0]["file_name"] if entries else ""
    base, stem = json.parent, json.stem.removeprefix("instances_")
    places = [base, base / "images", base / stem, base / "images" / stem]
    places += [base.parent, base.parent / "images", base.parent / stem, base.parent / "images" / stem]
    for place in places:
        if first and (place / first).is_file():
            return place
    looked = "\n".join(f"    {place}" for place in dict.fromkeys(places))
    raise UserError(f"{json}: its first picture, {first}, is in none of\n{looked}\n"
                    "  name the folder: dataset.train_images / dataset.val_images, or check --images")  # fmt: skip
