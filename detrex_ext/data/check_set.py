"""The checks of a whole COCO-format data set: of `check`, and before the first step of a training."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from detrex_ext.data.coco import CocoDataset, check_inside, find_images
from detrex_ext.data.ground_truth import GroundTruth
from detrex_ext.data.limits import Limit, check_limits
from detrex_ext.data.read import add_missing, check_files
from detrex_ext.data.report import Report
from detrex_ext.errors import UserError

logger = logging.getLogger(__name__)

# The files of so many images are opened before a training, which takes half a second; of more, only looked for.
_FEW = 5000
# What a loader may skip.
_SKIPPED = {"unreadable_file", "wrong_size"}


def check_dataset(
    json: str | Path,
    images: str | Path | None = None,
    decode: bool = True,
    limits: Iterable[Limit] = (),
    outside: bool = False,
) -> Report:
    """Check an annotation file and every image it names.

    Args:
        json: COCO annotation file.
        images: image folder; None: found beside the JSON.
        decode: decode every image whole; False: only open them (header and size).
        limits: how many objects a model and its evaluation take.
        outside: file names may lead out of the image folder.

    Returns:
        A Report; `report.errors` is empty when the set can be trained on.

    Raises:
        UserError: the JSON cannot be read at all, or the folder is missing.
    """
    truth = GroundTruth(json)
    report = truth.report
    check_whole(truth, report, limits)
    entries = [image for image in truth.images if image["file_name"]]
    if entries:
        report.images = str(find_images(truth, images))
        out = set() if outside else check_inside((e["file_name"] for e in entries), report.images, report)
        check_files([entry for entry in entries if entry["file_name"] not in out], report, decode)
    return report


def check_whole(truth: GroundTruth, report: Report, limits: Iterable[Limit] = (), boxes: bool = True) -> None:
    """Add to the report what is wrong with the set as a whole: nothing to learn, or more than a model can.

    Args:
        truth: what was read of the file.
        report: takes the faults; may be a copy of the truth's own.
        limits: how many objects a model and its evaluation take.
        boxes: there must be some.
    """
    if boxes and not report.most_objects and not report.errors:
        report.add("no_boxes", f"{report.num_images} images, and no box on any that is learned")
    if report.most_objects:
        check_limits(truth, report, limits)


def check_before_training(
    dataset: CocoDataset, boxes: bool = True, limits: Iterable[Limit] = (), max_unreadable: int = 0
) -> Report:
    """The quick check before the first step: something to learn from, and every image file is there.

    The inside of the JSON was checked when `dataset` was opened; warnings about it are logged here, once.

    Args:
        dataset: what to train or evaluate on.
        boxes: it must have some; False for images that are only predicted on.
        limits: how many objects a model and its evaluation take.
        max_unreadable: so many images may be skipped.

    Returns:
        The data set's Report.

    Raises:
        UserError: no images, no boxes, missing image files (the first are named); or, of a set of few images, more
            than may be skipped that are none or of another size.
    """
    if not len(dataset) and dataset.report.most_objects:
        raise UserError(f"{dataset.json}: no images to read\n  with filter_empty, images without boxes are left out")
    report = dataset.report = copy.deepcopy(dataset.truth.report)
    check_whole(dataset.truth, report, limits, boxes)
    report.images = dataset.images
    images = [dataset.image(i) for i in range(len(dataset))]
    if len(images) <= _FEW:
        check_files(images, report, decode=False)
    else:
        names = [image["file_name"] for image in images]
        missing = [name for name in names if not os.path.isfile(Path(dataset.images) / name)]
        add_missing(names, missing, report)
    for finding in report.warnings:
        logger.warning(
            "%s: %d x %s: %s; first: %s", dataset.json, finding.count, finding.kind, finding.text, finding.examples[0]
        )
    skipped = sum(finding.count for kind, finding in report.findings.items() if kind in _SKIPPED) <= max_unreadable
    report.raise_errors({f.kind for f in report.errors} - (_SKIPPED if skipped else set()))
    return report


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
