"""What `check --fix` changes in the content of an annotation file.

Boxes and ids are mended here; names and sizes of images, for which their folder is looked at, in `mend_images`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detrex_ext.data.file_names import FileNames, leads_out
from detrex_ext.data.mend_boxes import mend_boxes
from detrex_ext.data.read import UnreadableImage, image_size
from detrex_ext.data.report import Report
from detrex_ext.data.values import is_id, is_size, other_type, whole

_REFERENCES = (("images", "image_id"), ("categories", "category_id"))


def mend(data: dict, found: Report) -> Report:
    """Mends the content of an annotation file in place.

    Args:
        data: of `read_json`.
        found: what the check of it found; ``images`` is the image folder, "" where there is none.

    Returns:
        The changes, as findings by the kind of fault: how many, and the first as text.
    """
    changes = Report(found.json)
    _mend_category_ids(data, changes)
    _mend_ids(data, changes)
    if found.images:
        _mend_names(data["images"], found.images, changes)
        _mend_sizes(data["images"], found, changes)
    mend_boxes(data, found, changes)
    _mend_annotation_ids(data, changes)
    return changes


def dicts(data: dict, key: str) -> Iterator[dict]:
    """The entries of a list that are objects."""
    entries = data.get(key)
    return (entry for entry in entries if isinstance(entry, dict)) if isinstance(entries, list) else iter(())


def _mend_category_ids(data: dict, changes: Report) -> None:
    """Texts as numbers, where no other category has the number."""
    taken = [whole(c.get("id")) for c in dicts(data, "categories") if isinstance(c.get("id"), int | float | str)]
    for category in dicts(data, "categories"):
        number = other_type(category.get("id")) if isinstance(category.get("id"), str) else None
        if number is not None and number not in taken:
            changes.add("text_category_id", f"category id {category['id']!r} -> {number}")
            taken.append(number)
            category["id"] = number


def _mend_ids(data: dict, changes: Report) -> None:
    """Whole numbers for 1.0, and the type of the list where an annotation has the other."""
    known = {}
    for key, reference in _REFERENCES:
        for entry in dicts(data, key):
            _make_whole(entry, "id", changes)
        known[reference] = {entry["id"] for entry in dicts(data, key) if is_id(entry.get("id"))}
    for ann in dicts(data, "annotations"):
        _make_whole(ann, "id", changes)
        for reference, ids in known.items():
            _make_whole(ann, reference, changes)
            value = ann.get(reference)
            if is_id(value) and value not in ids and other_type(value) in ids:
                ann[reference] = other_type(value)
                changes.add("id_of_other_type", f"{reference} {value!r} -> {ann[reference]!r}")


def _make_whole(entry: dict, key: str, changes: Report) -> None:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        entry[key] = int(value)
        changes.add("float_id", f"{key} {value!r} -> {entry[key]}")


def _mend_annotation_ids(data: dict, changes: Report) -> None:
    """An own number for every annotation whose id is missing, or is another's before it."""
    used = {a["id"] for a in dicts(data, "annotations") if is_id(a.get("id"))}
    following = 1 + max((i for i in used if isinstance(i, int)), default=0)
    seen: set[Any] = set()
    for ann in dicts(data, "annotations"):
        value = ann.get("id")
        if value is None or (is_id(value) and value in seen):
            kind = "missing_annotation_id" if value is None else "duplicate_annotation_id"
            changes.add(kind, f"id {value!r} -> {following}")
            ann["id"], following = following, following + 1
        elif is_id(value):
            seen.add(value)


def _mend_names(images: list[dict], folder: str, changes: Report) -> None:
    """The name of the one file that is meant, where that which is named is not there."""
    named = [image for image in images if isinstance(image.get("file_name"), str) and image["file_name"]]
    missing = [image for image in named if not os.path.isfile(Path(folder) / image["file_name"])]
    absent = {image["file_name"] for image in missing}
    files = FileNames(folder, {image["file_name"] for image in named} - absent)
    for image in missing:
        found = files.find(image["file_name"])
        if found is not None:
            changes.add("misnamed_file", f"{image['file_name']!r} -> {found!r}")
            image["file_name"] = found


def _mend_sizes(images: list[dict], found: Report, changes: Report) -> None:
    """Width and height of the file, where they are missing."""
    for image in images:
        name = image.get("file_name")
        if not isinstance(name, str) or (is_size(image.get("width")) and is_size(image.get("height"))):
            continue
        if "outside_file" in found.findings and leads_out(found.images, name):
            continue
        try:
            height, width = image_size(Path(found.images) / name)
        except UnreadableImage:
            continue
        changes.add("missing_size", f"{name}: {image.get('width')} x {image.get('height')} -> {width} x {height}")
        image.update(width=width, height=height)
