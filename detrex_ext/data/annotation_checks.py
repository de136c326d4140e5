"""What is wrong with the boxes of a COCO annotation file."""

from __future__ import annotations

import sys

from detrex_ext.data.report import Report

# COCO's borders between small, medium and large, in pixels of area.
_SMALL, _MEDIUM = 32.0**2, 96.0**2
# A box may pass the border by this much (rounding of the tool that wrote it) without being reported, in pixels.
_BORDER_TOLERANCE = 0.5
_IDS = ("id", "image_id", "category_id")


def is_size(value: object) -> bool:
    """Whether `value` is a number of pixels, 1 or more."""
    return _is_finite(value) and value >= 1


def _is_finite(value: object) -> bool:
    # Compared and not converted: an integer may be too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_annotations(annotations: list, images: dict, names: dict, report: Report) -> None:
    """Add what is wrong with the annotations, and their counts per class and size, to the report.

    Args:
        annotations: the file's list.
        images: image id -> entry of the images list.
        names: category id -> class name; `report.classes` has a row for each.
    """
    seen: set = set()
    class_images: set = set()
    with_boxes: set = set()
    for position, ann in enumerate(annotations):
        if not _is_annotation(ann):
            text = "an annotation is an object with plain ids, and iscrowd 0 or 1"
            report.add("malformed_annotation", "error", text, f"annotations[{position}] = {str(ann)[:200]}")
            continue
        image = images.get(ann.get("image_id"))
        where = f"annotation {ann.get('id', f'number {position}')}, image {image['file_name'] if image else '?'}"
        _check_ids(ann, image, where, names, seen, report)
        box = ann.get("bbox")
        if not is_box(box):
            text = "a box is [x, y, width, height], four finite numbers in pixels"
            report.add("malformed_box", "error", text, f"{where}: bbox {box!r}")
            continue
        if image is None:
            continue
        if ann.get("iscrowd"):
            report.num_crowd += 1
            continue
        if not _check_box(box, image, where, report):
            continue
        with_boxes.add(ann["image_id"])
        name = names.get(ann.get("category_id"))
        if name is not None:
            row = report.classes[name]
            row["total"] += 1
            row[size_of(ann)] += 1
            if (name, ann["image_id"]) not in class_images:
                class_images.add((name, ann["image_id"]))
                row["images"] += 1
    report.num_empty = len(images) - len(with_boxes)


def _is_annotation(ann: object) -> bool:
    if not isinstance(ann, dict) or ann.get("iscrowd") not in (None, 0, 1):
        return False
    return not any(isinstance(ann.get(key), (list, dict)) for key in _IDS)


def _check_ids(ann: dict, image: dict | None, where: str, names: dict, seen: set, report: Report) -> None:
    number = ann.get("id")
    if number is None:
        report.add("missing_annotation_id", "warning", "harmless here; other COCO tools need ids", where)
    elif number in seen:
        report.add("duplicate_annotation_id", "error", "give every annotation its own id", where)
    seen.add(number)
    if image is None:
        text = "the image is not in the list; these boxes are left out"
        report.add("unknown_image", "warning", text, f"{where}: image_id {ann.get('image_id')!r}")
    if ann.get("category_id") is None:
        report.add("missing_category", "error", "every box needs a category_id; add it or remove the box", where)
    elif names and ann["category_id"] not in names:
        known = ", ".join(str(i) for i in sorted(names)[:12]) + (", ..." if len(names) > 12 else "")
        text = f"its categories are {known}; add the missing ones to 'categories', or remove these annotations"
        report.add("unknown_category", "error", text, f"{where}: category_id {ann['category_id']!r}")


def is_box(box: object) -> bool:
    """Whether `box` is a list of four finite numbers."""
    return isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))


def _check_box(box: list, image: dict, where: str, report: Report) -> bool:
    """Whether something of the box is on the picture."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        report.add("degenerate_box", "warning", "no width or height; left out of training", f"{where}: bbox {box}")
        return False
    if not (is_size(image.get("width")) and is_size(image.get("height"))):
        return True
    width, height = image["width"], image["height"]
    outside = f"{where}: bbox {box}, image {width} x {height}"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        report.add("box_outside_image", "warning", "nothing of it is on the picture; left out of training", outside)
        return False
    if min(x, y) < -_BORDER_TOLERANCE or x + w > width + _BORDER_TOLERANCE or y + h > height + _BORDER_TOLERANCE:
        report.add("box_over_border", "warning", "it passes the picture's border; cut there in training", outside)
    return True


def size_of(ann: dict) -> str:
    """"small", "medium" or "large" by COCO's area ("area", or width * height where that is absent)."""
    area = ann.get("area")
    if not isinstance(area, (int, float)):
        area = ann["bbox"][2] * ann["bbox"][3]
    return "small" if area < _SMALL else "medium" if area < _MEDIUM else "large"
