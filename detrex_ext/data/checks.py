"""What is wrong inside a COCO annotation file.

Shape legend: P boxes.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np

from detrex_ext.data.report import SIZES, Report

# Without these right there are no classes.
CATEGORY_ERRORS = ("no_categories", "malformed_category", "duplicate_category_id")
# COCO's borders between small, medium and large, in pixels of area.
_BORDERS = (32.0**2, 96.0**2)
# A box may pass the border by this much (rounding of the tool that wrote it) without being reported, in pixels.
_BORDER_TOLERANCE = 0.5
_IDS = ("id", "image_id", "category_id")


def is_size(value: object) -> bool:
    """Whether `value` is a number of pixels, 1 or more."""
    return _is_finite(value) and value >= 1


def _is_finite(value: object) -> bool:
    # Compared and not converted: an integer may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_categories(data: dict, report: Report) -> dict[int, str]:
    """Add what is wrong with "categories" to the report.

    Returns:
        Category id -> class name, by ascending id; names that are there twice have their id added. Empty where a
        category has no id.
    """
    categories = data.get("categories")
    if not isinstance(categories, list) or not categories:
        found = f"'categories' is {categories!r:.80}" if "categories" in data else "the key is absent"
        report.add("no_categories", found)
        return {}
    found: list[tuple[int, str]] = []
    for position, category in enumerate(categories):
        number = category.get("id") if isinstance(category, dict) else None
        if isinstance(number, int) and not isinstance(number, bool):
            name = category.get("name")
            found.append((number, str(number if name is None else name)))
        else:
            report.add("malformed_category", f"categories[{position}] = {category!r}")
    for value in (v for v, n in Counter(number for number, _ in found).items() if n > 1):
        report.add("duplicate_category_id", f"category id {value}")
    for value in (v for v, n in Counter(name for _, name in found).items() if n > 1):
        report.add("duplicate_category_name", value)
    names = dict(sorted(found, key=lambda pair: pair[0])) if len(found) == len(categories) else {}
    times = Counter(names.values())
    return {k: f"{name} (id {k})" if times[name] > 1 else name for k, name in names.items()}


def check_images(images: list[dict], report: Report) -> dict:
    """Add what is wrong with "images" to the report; image id -> entry of those that have an id and a name."""
    if not images:
        report.add("no_images", "'images' is an empty list")
    by_id: dict = {}
    files: set[str] = set()
    for position, image in enumerate(images):
        name = image.get("file_name")
        label = f"image id {image.get('id')}, {name}"
        if not isinstance(image.get("id"), int | str) or not isinstance(name, str) or not name:
            report.add("malformed_image", f"images[{position}]: {label}")
            continue
        if image["id"] in by_id:
            report.add("duplicate_image_id", label)
        if name in files:
            report.add("duplicate_file_name", label)
        by_id[image["id"]] = image
        files.add(name)
        if not (is_size(image.get("width")) and is_size(image.get("height"))):
            report.add("missing_size", label)
    return by_id


def check_annotations(annotations: list, images: dict, index: dict, names: dict, report: Report) -> dict:
    """Add what is wrong with the annotations, and their counts per class and size, to the report.

    It returns columns of the boxes of these images and classes: image_P, class_P, xywh_P4, area_P, crowd_P.

    Args:
        annotations: the file's list.
        images: image id -> entry, of what `check_images` found sound.
        index: image id -> number of the image.
        names: category id -> class name, by class index.
        report: takes the faults and the counts.
    """
    class_of = {category_id: k for k, category_id in enumerate(names)}
    seen: set = set()
    rows, boxes = [], []
    for position, ann in enumerate(annotations):
        if not isinstance(ann, dict) or ann.get("iscrowd") not in (None, 0, 1) or _has_listed_id(ann):
            report.add("malformed_annotation", f"annotations[{position}] = {str(ann)[:200]}")
            continue
        _check_ids(ann, position, images, names, seen, report)
        box, area = ann.get("bbox"), ann.get("area")
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
            report.add("malformed_box", f"{_where(ann, position, images)}: bbox {box!r}")
            continue
        image_id = ann.get("image_id")
        place = index.get(image_id, -1), class_of.get(ann.get("category_id"), -1), position
        boxes.append(box)
        rows.append((*place, bool(ann.get("iscrowd")), image_id in images, area if _is_finite(area) else np.nan))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    image_P, class_P, position_P = table[:, :3].astype(np.int64).T
    crowd_P, usable_P = table[:, 3:5].T > 0
    xywh_P4 = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    area_P = np.where(np.isnan(table[:, 5]), xywh_P4[:, 2] * xywh_P4[:, 3], table[:, 5])

    faults = _box_faults(xywh_P4, _sizes(images, index)[image_P])
    visible_P = usable_P & ~crowd_P
    for kind, fault_P in faults.items():
        for p in np.flatnonzero(fault_P & visible_P):
            ann, image = annotations[position_P[p]], images[annotations[position_P[p]]["image_id"]]
            size = "" if kind == "degenerate_box" else f", image {image['width']} x {image['height']}"
            example = f"{_where(ann, position_P[p], images)}: bbox {ann['bbox']}{size}"
            report.add(kind, example)
        if kind != "box_over_border":
            visible_P &= ~fault_P
    report.num_crowd = int((usable_P & crowd_P).sum())
    report.num_empty = len(images) - len(np.unique(image_P[visible_P]))
    _count(image_P[visible_P], class_P[visible_P], area_P[visible_P], names, report)
    known_P = (image_P >= 0) & (class_P >= 0)
    columns = dict(image_P=image_P, class_P=class_P, xywh_P4=xywh_P4, area_P=area_P, crowd_P=crowd_P)
    return {name: column[known_P] for name, column in columns.items()}


def _sizes(images: dict, index: dict) -> np.ndarray:
    """(N + 1, 2) height, width; NaN where not known, as in the last row, of images that are not in the list."""
    hw = np.full((len(index) + 1, 2), np.nan)
    for image_id, image in images.items():
        if is_size(image.get("height")) and is_size(image.get("width")):
            hw[index[image_id]] = image["height"], image["width"]
    return hw


def _has_listed_id(ann: dict) -> bool:
    return any(isinstance(ann.get(key), list | dict) for key in _IDS)


def _where(ann: dict, position: int, images: dict) -> str:
    image = images.get(ann.get("image_id"))
    return f"annotation {ann.get('id', f'number {position}')}, image {image['file_name'] if image else '?'}"


def _check_ids(ann: dict, position: int, images: dict, names: dict, seen: set, report: Report) -> None:
    number, image_id, category_id = map(ann.get, _IDS)
    if number is None:
        report.add("missing_annotation_id", _where(ann, position, images))
    elif number in seen:
        report.add("duplicate_annotation_id", _where(ann, position, images))
    seen.add(number)
    if image_id not in images:
        report.add("unknown_image", f"{_where(ann, position, images)}: image_id {image_id!r}")
    if category_id is None:
        report.add("missing_category", _where(ann, position, images))
    elif names and category_id not in names:
        known = ", ".join(map(str, list(names)[:12])) + (", ..." if len(names) > 12 else "")
        report.add("unknown_category", f"{_where(ann, position, images)}: category_id {category_id!r}", known)


def _box_faults(xywh_P4: np.ndarray, hw_P2: np.ndarray) -> dict[str, np.ndarray]:
    """Kind of warning -> (P,) where; an image of unknown size (NaN) has no borders."""
    x, y, w, h = xywh_P4.T
    height, width = hw_P2.T
    outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
    t = _BORDER_TOLERANCE
    over = (np.minimum(x, y) < -t) | (x + w > width + t) | (y + h > height + t)
    sized = np.isfinite(width)
    return dict(degenerate_box=(w <= 0) | (h <= 0), box_outside_image=outside & sized, box_over_border=over & sized)


def _count(image_P: np.ndarray, class_P: np.ndarray, area_P: np.ndarray, names: dict, report: Report) -> None:
    """Fill `report.classes`; a class of -1 is none."""
    known_P, width = class_P >= 0, len(names)
    image_P, class_P, size_P = image_P[known_P], class_P[known_P], np.searchsorted(_BORDERS, area_P[known_P], "right")
    sizes_K3 = np.bincount(class_P * 3 + size_P, minlength=3 * width).reshape(width, 3)
    images_K = np.bincount(np.unique(image_P * width + class_P) % max(width, 1), minlength=width)
    for name, sizes, images in zip(names.values(), sizes_K3.tolist(), images_K.tolist(), strict=True):
        report.classes[name] = {"total": sum(sizes), **dict(zip(SIZES, sizes, strict=True)), "images": images}
        if not sum(sizes) and report.num_annotations:
            report.add("class_without_boxes", name)
