"""Checking a data set: the full check of the command line, and the quick one before training."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detrex_ext.data.coco import CocoDataset, find_images
from detrex_ext.data.coco_json import check_json, is_size, read_json
from detrex_ext.data.read import UnreadableImage, image_size, read_image
from detrex_ext.data.report import Report
from detrex_ext.errors import UserError

logger = logging.getLogger(__name__)

_PROGRESS_EVERY = 2000


def check_dataset(json: str | Path, images: str | Path | None = None, decode: bool = True) -> Report:
    """Check an annotation file and every picture it names.

    Args:
        json: COCO annotation file.
        images: picture folder; None: found beside the JSON.
        decode: decode every picture whole; False: only open them (header and size).

    Returns:
        A Report; `report.errors` is empty when the set can be trained on.

    Raises:
        UserError: the JSON cannot be read at all, or the folder is missing.
    """
    data = read_json(json)
    report = Report(json=str(json))
    check_json(data, report)
    entries = [i for i in data["images"] if isinstance(i.get("file_name"), str) and i["file_name"]]
    if entries:
        folder = find_images(json, images, entries)
        report.images = str(folder)
        for entry, fault in _look_at_pictures(entries, folder, decode):
            _report_picture(entry, fault, report)
    return report


def _look_at_pictures(entries: list[dict], folder: Path, decode: bool) -> Iterator[tuple[dict, tuple | None]]:
    def look(entry: dict) -> tuple | None:
        path = str(folder / entry["file_name"])
        if not os.path.isfile(path):
            return "missing_file", path
        try:
            size = read_image(path).shape[:2] if decode else image_size(path)
        except UnreadableImage as error:
            return "unreadable_file", f"{path}: {error.reason}"
        wanted = (entry.get("height"), entry.get("width"))
        if all(map(is_size, wanted)) and tuple(size) != wanted:
            return "wrong_size", f"{path}: the file is {size[1]} x {size[0]}, the JSON says {wanted[1]} x {wanted[0]}"
        return None

    # Decoding releases the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for number, (entry, fault) in enumerate(zip(entries, pool.map(look, entries), strict=True), start=1):
            if number % _PROGRESS_EVERY == 0:
                print(f"{number} of {len(entries)} pictures", file=sys.stderr)
            yield entry, fault


_PICTURE_TEXTS = {
    "missing_file": "the JSON names it, the folder does not hold it; name the right folder or remove the entry",
    "unreadable_file": "replace it or remove the entry; dataloader.train.max_unreadable=N skips up to N of them",
    "wrong_size": "the boxes may belong to another version of the picture (sizes are after EXIF rotation)",
}


def _report_picture(entry: dict, fault: tuple | None, report: Report) -> None:
    if fault is not None:
        kind, example = fault
        report.add(kind, "error", _PICTURE_TEXTS[kind], example)


def check_before_training(dataset: CocoDataset, boxes: bool = True) -> Report:
    """The quick check before the first step: something to learn from, and every picture file is there.

    The inside of the JSON was checked when `dataset` was opened; warnings about it are logged here, once.

    Args:
        dataset: what to train or evaluate on.
        boxes: it must have some; False for pictures that are only predicted on.

    Returns:
        The data set's Report.

    Raises:
        UserError: no images, no boxes, or missing picture files (the first are named).
    """
    if not len(dataset):
        raise UserError(f"{dataset.json}: no images to read\n  with filter_empty, images without boxes are left out")
    if boxes and not any(row["total"] for row in dataset.report.classes.values()):
        raise UserError(f"{dataset.json}: {len(dataset)} images, and no box on any\n  nothing to learn or measure")
    for finding in dataset.report.warnings:
        logger.warning(
            "%s: %d x %s: %s; first: %s", dataset.json, finding.count, finding.kind, finding.text, finding.examples[0]
        )
    missing = [path for path in (r["file_name"] for r in dataset.records) if not os.path.isfile(path)]
    if missing:
        named = "\n".join(f"    {path}" for path in missing[:5])
        more = f"\n    and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"{dataset.json}: {len(missing)} of {len(dataset)} pictures are missing in {dataset.images}\n"
            f"{named}{more}\n"
            "  name the right folder (dataset.train_images / dataset.val_images) or remove the entries"
        )
    return dataset.report


def check_same_classes(train: CocoDataset, val: CocoDataset) -> None:
    """Raise UserError where two sets do not have the same category ids and names."""
    a = dict(zip(train.category_ids, train.class_names, strict=True))
    b = dict(zip(val.category_ids, val.class_names, strict=True))
    if a == b:
        return
    lines = [f"the classes of {val.json} are not those of {train.json}"]
    for category_id in sorted(set(a) | set(b)):
        if a.get(category_id) != b.get(category_id):
            lines.append(f"  id {category_id}: {a.get(category_id, 'absent')!r} in training, "
                         f"{b.get(category_id, 'absent')!r} in validation")  # fmt: skip
    shown = lines[:9] + ([f"  and {len(lines) - 9} more"] if len(lines) > 9 else [])
    raise UserError("\n".join([*shown, "  make the two 'categories' lists equal"]))
