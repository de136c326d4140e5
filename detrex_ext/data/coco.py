"""A COCO-format data set: its records, its image files, and the checks before they are used."""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path

import numpy as np

from detrex_ext.data.ground_truth import GroundTruth, read_ground_truth
from detrex_ext.data.read import check_files
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

    Attributes:
        class_names, category_ids: by class index.
        sizes_N2: (N, 2) int64 height, width of each record.
        report: the `Report` of the JSON.

    Raises:
        UserError: the JSON is missing or inconsistent, or the folder is missing.
    """

    def __init__(self, json: str | Path, images: str | Path | None = None, filter_empty: bool = False) -> None:
        self.truth = truth = read_ground_truth(json, sound=True)
        self.json, self.report = str(json), copy.deepcopy(truth.report)
        self.images = str(find_images(truth, images))
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

    def _with_path(self, index: int) -> dict:
        image = self.truth.images[self._kept[index]]
        return {**image, "file_name": str(Path(self.images) / image["file_name"])}


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
        if first and (place / first).is_file():
            return place
    looked = "\n".join(f"    {place}" for place in dict.fromkeys(places))
    raise UserError(f"{json}: its first image, {first}, is in none of\n{looked}\n"
                    "  name the folder: dataset.train_images / dataset.val_images, or check --images")  # fmt: skip


def check_dataset(json: str | Path, images: str | Path | None = None, decode: bool = True) -> Report:
    """Check an annotation file and every image it names.

    Args:
        json: COCO annotation file.
        images: image folder; None: found beside the JSON.
        decode: decode every image whole; False: only open them (header and size).

    Returns:
        A Report; `report.errors` is empty when the set can be trained on.

    Raises:
        UserError: the JSON cannot be read at all, or the folder is missing.
    """
    truth = GroundTruth(json)
    report = truth.report
    entries = [image for image in truth.images if image["file_name"]]
    if entries:
        report.images = str(find_images(truth, images))
        check_files(entries, report, decode)
    return report


def check_before_training(dataset: CocoDataset, boxes: bool = True) -> Report:
    """The quick check before the first step: something to learn from, and every image file is there.

    The inside of the JSON was checked when `dataset` was opened; warnings about it are logged here, once.

    Args:
        dataset: what to train or evaluate on.
        boxes: it must have some; False for images that are only predicted on.

    Returns:
        The data set's Report.

    Raises:
        UserError: no images, no boxes, or missing image files (the first are named).
    """
    if not len(dataset):
        raise UserError(f"{dataset.json}: no images to read\n  with filter_empty, images without boxes are left out")
    if boxes and not any(row["total"] for row in dataset.report.classes.values()):
        raise UserError(f"{dataset.json}: {len(dataset)} images, and no box on any\n  nothing to learn or measure")
    for finding in dataset.report.warnings:
        logger.warning(
            "%s: %d x %s: %s; first: %s", dataset.json, finding.count, finding.kind, finding.text, finding.examples[0]
        )
    missing = [path for path in (r["file_name"] for r in dataset) if not os.path.isfile(path)]
    if missing:
        named = "\n".join(f"    {path}" for path in missing[:5])
        more = f"\n    and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"{dataset.json}: {len(missing)} of {len(dataset)} images are missing in {dataset.images}\n"
            f"{named}{more}\n"
            "  name the right folder (dataset.train_images / dataset.val_images) or remove the entries"
        )
    return dataset.report


def check_same_classes(train: CocoDataset, val: CocoDataset) -> None:
    """Raise UserError where two sets do not have the same category ids and names."""
    a, b = (dict(zip(data.category_ids, data.class_names, strict=True)) for data in (train, val))
    if a == b:
        return
    lines = [f"the classes of {val.json} are not those of {train.json}"]
    for category_id in sorted(set(a) | set(b)):
        if a.get(category_id) != b.get(category_id):
            lines.append(f"  id {category_id}: {a.get(category_id, 'absent')!r} in training, "
                         f"{b.get(category_id, 'absent')!r} in validation")  # fmt: skip
    shown = lines[:9] + ([f"  and {len(lines) - 9} more"] if len(lines) > 9 else [])
    raise UserError("\n".join([*shown, "  make the two 'categories' lists equal"]))
