"""What is wrong inside a COCO annotation file.

Shape legend: P boxes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from detrex_ext.data.boxes import check_boxes, usable_areas
from detrex_ext.data.report import SIZES, Report
from detrex_ext.data.values import is_box, is_finite, is_id, is_size, other_type, whole

# Without these right there are no classes.
CATEGORY_ERRORS = ("no_categories", "malformed_category", "text_category_id", "duplicate_category_id")
# COCO's borders between small, medium and large, in pixels of area.
_BORDERS = (32.0**2, 96.0**2)
_IDS = ("id", "image_id", "category_id")
_INTEGERS, _FLOATS = {int}, {float}


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
        given = category.get("id") if isinstance(category, dict) else None
        number = whole(given)
        if isinstance(number, int) and not isinstance(number, bool):
            name = category.get("name")
            found.append((number, str(number if name is None else name)))
            if isinstance(given, float):
                report.add("float_id", f"category id {given}")
        else:
            kind = "text_category_id" if isinstance(given, str) and other_type(given) is not None else None
            report.add(kind or "malformed_category", f"categories[{position}] = {category!r}")
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
        if not is_id(image.get("id")) or not isinstance(name, str) or not name:
            report.add("malformed_image", f"images[{position}]: {label}")
            continue
        if image["id"] in by_id:
            report.add("duplicate_image_id", label)
        if name in files:
            report.add("duplicate_file_name", label)
        if isinstance(image["id"], float):
            report.add("float_id", label)
        by_id[image["id"]] = image
        files.add(name)
        if not (is_size(image.get("width")) and is_size(image.get("height"))):
            report.add("missing_size", label)
    for text in (i for i in by_id if isinstance(i, str) and other_type(i) in by_id):
        report.add("alike_image_ids", f"image ids {other_type(text)} and {text!r}")
    return by_id


def check_annotations(annotations: list, images: dict, index: dict, names: dict, report: Report) -> dict:
    """Add what is wrong with the annotations, and their counts per class and size, to the report.

    It returns columns of the boxes of these images and classes: image_P, class_P, xywh_P4, area_P, crowd_P, learned_P.

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
        types = set(map(type, map(ann.get, _IDS))) if isinstance(ann, dict) else {list}
        if list in types or dict in types or ann.get("iscrowd") not in (None, 0, 1):
            report.add("malformed_annotation", f"annotations[{position}] = {str(ann)[:200]}")
            continue
        _check_ids(ann, position, images, names, seen, report)
        if types != _INTEGERS and float in types:
            report.add("float_id", f"{_where(ann, position, images)}: ids {tuple(map(ann.get, _IDS))}")
        box, area = ann.get("bbox"), ann.get("area")
        if not _is_usual(box) and not is_box(box):
            report.add("malformed_box", f"{_where(ann, position, images)}: bbox {box!r:.200}")
            continue
        image_id = ann.get("image_id")
        place = index.get(image_id, -1), class_of.get(ann.get("category_id"), -1), position
        boxes.append(box)
        rows.append((*place, bool(ann.get("iscrowd")), image_id in images, area if is_finite(area) else 0))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    image_P, class_P, position_P = table[:, :3].astype(np.int64).T
    crowd_P, usable_P = table[:, 3:5].T > 0
    xywh_P4 = np.array(boxes, dtype=np.float64).reshape(-1, 4)

    tell = _teller(annotations, position_P, images, report)
    area_P = usable_areas(table[:, 5], xywh_P4, usable_P, tell)
    learned_P = check_boxes(image_P, class_P, xywh_P4, _sizes(images, index)[image_P], usable_P & ~crowd_P, tell)
    report.num_crowd = int((usable_P & crowd_P).sum())
    report.num_empty = len(images) - len(np.unique(image_P[learned_P]))
    learned_P &= class_P >= 0
    _count(image_P[learned_P], class_P[learned_P], area_P[learned_P], names, report)
    known_P = (image_P >= 0) & (class_P >= 0)
    columns = dict(image_P=image_P, class_P=class_P, xywh_P4=xywh_P4, area_P=area_P)
    return {name: column[known_P] for name, column in dict(columns, crowd_P=crowd_P, learned_P=learned_P).items()}


def _teller(annotations: list, position_P: np.ndarray, images: dict, report: Report) -> Callable[..., None]:
    """What adds a kind of fault of boxes to the report, with its (P,) bool places."""

    def tell(kind: str, fault_P: np.ndarray, *known: object) -> None:
        def example(p: int) -> str:
            ann, image = annotations[position_P[p]], images[annotations[position_P[p]]["image_id"]]
            sized = "box_" in kind and is_size(image.get("width")) and is_size(image.get("height"))
            size = f", image {image['width']} x {image['height']}" if sized else ""
            what = f"area {ann.get('area', 'absent')!r:.40}" if kind == "unusable_area" else f"bbox {ann['bbox']}"
            return f"{_where(ann, position_P[p], images)}: {what}{size}"

        report.add_all(kind, np.flatnonzero(fault_P), example, *known)

    return tell


def _sizes(images: dict, index: dict) -> np.ndarray:
    """(N + 1, 2) height, width; NaN where not known, as in the last row, of images that are not in the list."""
    hw = np.full((len(index) + 1, 2), np.nan)
    for image_id, image in images.items():
        if is_size(image.get("height")) and is_size(image.get("width")):
            hw[index[image_id]] = image["height"], image["width"]
    return hw


def _is_usual(box: object) -> bool:
    """Whether it is four finite floats, as in nearly all files; told faster than by `is_box`."""
    return type(box) is list and len(box) == 4 and set(map(type, box)) == _FLOATS and math.isfinite(sum(box))


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
    for key, value, known in (("image_id", image_id, images), ("category_id", category_id, names)):
        if value in known or (known is names and not names):
            continue
        label = f"{_where(ann, position, images)}: {key} {value!r}"
        if other_type(value) in known:
            report.add("id_of_other_type", label)
        elif known is images:
            report.add("unknown_image", label)
        elif value is not None:
            listed = ", ".join(map(str, list(names)[:12])) + (", ..." if len(names) > 12 else "")
            report.add("unknown_category", label, listed)
    if category_id is None:
        report.add("missing_category", _where(ann, position, images))


def _count(image_P: np.ndarray, class_P: np.ndarray, area_P: np.ndarray, names: dict, report: Report) -> None:
    """Fill `report.classes` and `report.most_objects`."""
    width, size_P = len(names), np.searchsorted(_BORDERS, area_P, "right")
    report.most_objects = int(np.bincount(image_P, minlength=1).max())
    sizes_K3 = np.bincount(class_P * 3 + size_P, minlength=3 * width).reshape(width, 3)
    images_K = np.bincount(np.unique(image_P * width + class_P) % max(width, 1), minlength=width)
    for name, sizes, images in zip(names.values(), sizes_K3.tolist(), images_K.tolist(), strict=True):
        report.classes[name] = {"total": sum(sizes), **dict(zip(SIZES, sizes, strict=True)), "images": images}
        if not sum(sizes) and report.num_annotations:
            report.add("class_without_boxes", name)
