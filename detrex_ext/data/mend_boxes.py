"""How `check --fix` mends boxes: their layout, those that training leaves out or cuts, repeats and areas.

Shape legend: P boxes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detrex_ext.data.report import Report
from detrex_ext.data.values import is_box, is_finite, is_id, is_size

# A box of a layout is on the image but for so much of its side.
_SLACK = 0.005
_BORDER = 0.5


def mend_boxes(data: dict, found: Report, changes: Report) -> None:
    """Mends the boxes of sound annotations in place, and takes those away of which nothing can be learned.

    Args:
        data: content of an annotation file, with ids and sizes of images mended already.
        found: findings of the check.
        changes: takes what was done.
    """
    if not isinstance(data.get("annotations"), list):
        return
    images = {image["id"]: image for image in data["images"] if is_id(image.get("id"))}
    if "malformed_image" not in found.findings:
        data["annotations"] = [a for a in data["annotations"] if not _is_lost(a, images, changes)]
    sound = [a for a in data["annotations"] if _is_sound(a)]
    sized = [(a, images[a["image_id"]]) for a in sound if _size(images.get(a["image_id"]))]
    layout = _layout([a["bbox"] for a, _ in sized], [_size(i) for _, i in sized], found)
    if layout:
        for ann, image in sized:
            _convert(ann, _size(image), layout, changes)
    seen: set[tuple] = set()
    dropped = {id(ann) for ann in sound if _drops(ann, images, seen, changes)}
    data["annotations"] = [ann for ann in data["annotations"] if id(ann) not in dropped]
    for ann in (a for a in sound if id(a) not in dropped):
        _cut(ann, _size(images.get(ann["image_id"])), changes)
        area = ann["bbox"][2] * ann["bbox"][3]
        if not (is_finite(ann.get("area")) and ann["area"] > 0) and 0 < area < math.inf:
            changes.add("unusable_area", f"{_name(ann)}: area {ann.get('area', 'absent')!r:.40} -> {area:g}")
            ann["area"] = area


def _is_lost(ann: Any, images: dict, changes: Report) -> bool:
    """Whether an annotation is of an image that is not in the list."""
    image_id = ann.get("image_id") if isinstance(ann, dict) else {}
    lost = not isinstance(image_id, list | dict) and image_id not in images
    if lost:
        changes.add("unknown_image", f"annotation {ann.get('id')}: image_id {image_id!r} taken away")
    return lost


def _is_sound(ann: Any) -> bool:
    return (
        isinstance(ann, dict)
        and is_box(ann.get("bbox"))
        and is_id(ann.get("image_id"))
        and ann.get("iscrowd") in (None, 0, 1)
    )


def _size(image: dict | None) -> tuple[int, int] | None:
    """(width, height) where they are known."""
    known = image is not None and is_size(image.get("width")) and is_size(image.get("height"))
    return (int(image["width"]), int(image["height"])) if known else None


def _layout(boxes: list, sizes: list, found: Report) -> tuple[str, bool] | None:
    """What the boxes are: "xywh", "xyxy" or "cxcywh", and whether in fractions; None for pixels, or what is unclear."""
    if "corner_boxes" in found.findings:
        return "xyxy", False
    if "fractional_boxes" not in found.findings or not boxes:
        return None
    a_P, b_P, c_P, d_P = np.array(boxes, dtype=np.float64).T
    low, high = -_SLACK, 1 + _SLACK
    starts_P, ends_P = np.minimum(a_P, b_P) >= low, np.maximum(c_P, d_P) <= high
    fits = {
        "xywh": starts_P & (a_P + c_P <= high) & (b_P + d_P <= high),
        "xyxy": starts_P & ends_P & (c_P > a_P) & (d_P > b_P),
        "cxcywh": (a_P >= c_P / 2 + low) & (b_P >= d_P / 2 + low) & (a_P + c_P / 2 <= high) & (b_P + d_P / 2 <= high),
    }
    layouts = [name for name, fits_P in fits.items() if fits_P.all()]
    return (layouts[0], True) if len(layouts) == 1 else None


def _convert(ann: dict, size: tuple[int, int], layout: tuple[str, bool], changes: Report) -> None:
    before = ann["bbox"]
    name, fractions = layout
    scale = size if fractions else (1, 1)
    x, y, w, h = (v * scale[i % 2] for i, v in enumerate(before))
    if name == "xyxy":
        w, h = w - x, h - y
    elif name == "cxcywh":
        x, y = x - w / 2, y - h / 2
    ann["bbox"] = [round(v, 3) if isinstance(v, float) else v for v in (x, y, w, h)]
    if not is_finite(ann.get("area")) or fractions or ann["area"] > w * h:
        ann["area"] = ann["bbox"][2] * ann["bbox"][3]
    kind = "fractional_boxes" if fractions else "corner_boxes"
    changes.add(kind, f"{_name(ann)}: bbox {before} -> {ann['bbox']} (they were {name})")


def _drops(ann: dict, images: dict, seen: set[tuple], changes: Report) -> bool:
    """Whether training leaves a box out, or it stands there before."""
    image_id, (x, y, w, h) = ann["image_id"], ann["bbox"]
    size = _size(images.get(image_id))
    outside = size is not None and (x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0)
    kind = ""
    if image_id not in images or ann.get("iscrowd"):
        return False
    if w <= 0 or h <= 0:
        kind = "degenerate_box"
    elif outside:
        kind = "box_outside_image"
    else:
        category = ann.get("category_id")
        key = (image_id, category if is_id(category) else None, x, y, w, h)
        if key in seen:
            kind = "duplicate_box"
        seen.add(key)
    if kind:
        changes.add(kind, f"{_name(ann)}: bbox {ann['bbox']} taken away")
    return bool(kind)


def _cut(ann: dict, size: tuple[int, int] | None, changes: Report) -> None:
    """Cuts a box at the border, where it passes it by more than rounding does."""
    x, y, w, h = before = ann["bbox"]
    over = size and (min(x, y) < -_BORDER or x + w > size[0] + _BORDER or y + h > size[1] + _BORDER)
    if not over or ann.get("iscrowd"):
        return
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, size[0]), min(y + h, size[1])
    ann["bbox"] = [left, top, right - left, bottom - top]
    if is_finite(ann.get("area")):
        ann["area"] = min(ann["area"], ann["bbox"][2] * ann["bbox"][3])
    changes.add("box_over_border", f"{_name(ann)}: bbox {before} -> {ann['bbox']}")


def _name(ann: dict) -> str:
    return f"annotation {ann.get('id')}, image {ann['image_id']}"
