"""Label Studio's own JSON, and its smaller form."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from detrex_ext.data.folders.cvat import around_ellipse, turned
from detrex_ext.data.folders.documents import Box, Picture, Reading, around, reading_of, size_or_none, with_names
from detrex_ext.data.folders.files import Unreadable, number, read_any_json
from detrex_ext.data.folders.listing import Listing, split_of_path
from detrex_ext.data.folders.notes import Notes
from detrex_ext.errors import UserError

_MOST_BYTES = 1 << 30
# What an upload puts before the name of a file.
_PREFIX = re.compile(r"^[0-9a-f]{8}-")
_IMAGE = re.compile(r"\.(jpe?g|png|bmp|webp|tiff?|gif|ppm|pgm)([?#].*)?$", re.IGNORECASE)
_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")


def is_label_studio(data: Any) -> bool:
    """Whether a JSON value is a list of tasks with an image."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and bool(_image_names(data[0])) and (
        "annotations" in data[0] or "completions" in data[0] or "annotation_id" in data[0] or "data" in data[0]
    )  # fmt: skip


def read_label_studio(listing: Listing, path: str, notes: Notes) -> Reading:
    """The images of the tasks that somebody has labeled; the others are left out, not taken for background.

    Args:
        listing: of the folder.
        path: of the JSON file.
        notes: takes the decisions.

    Raises:
        UserError: it cannot be read, or none of its images is there.
    """
    try:
        tasks = read_any_json(listing.root / path, _MOST_BYTES)
    except Unreadable as error:
        raise UserError(f"{path}: {error}\n  expected Label Studio's JSON export") from None
    pictures: dict[str, Picture] = {}
    for place, task in enumerate(tasks):
        names = _image_names(task) if isinstance(task, dict) else []
        image = next((found for name in names if (found := _find(listing, name, path))), None)
        shown = names[-1] if names else f"task number {place}"
        shapes = _shapes(task, notes, shown) if names else None
        if image is None:
            notes.leave_out("image that is named, but is not there", shown)
        elif shapes is None:
            notes.leave_out("image that nobody has labeled yet", shown)
        elif image in pictures:
            notes.leave_out("image of a second task, the first counts", shown)
        else:
            pictures[image] = _picture(listing, image, shapes, notes)
    if not pictures:
        raise UserError("\n  ".join([f"{path}: {len(tasks)} tasks, and no labeled one with its image below the folder",
                        *notes.left_out()[:3], "name the folder of the images: --data-images DIR"]))  # fmt: skip
    names = sorted(Counter(key for picture in pictures.values() for key, _ in picture.objects))
    notes.classes(names, "the names found, sorted")
    return reading_of(pictures.values(), with_names(names), listing.image_root, notes)


def _image_names(task: dict) -> list[str]:
    """Names of the image of a task, the likeliest first: of the upload, and of its data."""
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    values = [task.get("file_upload"), data.get("image"), *data.values()]
    return [value for value in values if isinstance(value, str) and _IMAGE.search(value)]


def _find(listing: Listing, name: str, near: str) -> str | None:
    """The image of a name as Label Studio has it: an address, a local path behind ``?d=``, with what it put before."""
    name = re.sub(r"^/data/local-files/?\?d=", "", name)
    name = name if "://" in name else name.split("?")[0]
    head, slash, last = name.replace("\\", "/").rpartition("/")
    return listing.find(name, near) or listing.find(head + slash + _PREFIX.sub("", last), near)


def _shapes(task: dict, notes: Notes, name: str) -> list[Any] | None:
    """What was drawn on the image of a task; None where it was not labeled."""
    found = task.get("annotations", task.get("completions"))
    if found is None:  # the smaller form has shapes under the names of its own controls
        if "annotation_id" not in task and "annotator" not in task:
            return None
        lists = [value for value in task.values() if isinstance(value, list)]
        return [shape for shapes in lists for shape in shapes]
    given = found if isinstance(found, list) else []
    valid = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
    valid = [one for one in valid if isinstance(one.get("result"), list)]
    if len(valid) > 1:
        notes.leave_out("further annotation of a task, the first counts", name)
    return valid[0]["result"] if valid else None


def _picture(listing: Listing, image: str, shapes: list[Any], notes: Notes) -> Picture:
    objects, size = [], size_or_none(listing.image_root / image)
    for shape in shapes:
        if isinstance(shape, dict) and isinstance(shape.get("value"), dict):
            shape = {**shape, **shape["value"]}
        labels = next((shape[key] for key in _LABELS if isinstance(shape.get(key), list) and shape[key]), None) \
            if isinstance(shape, dict) else None  # fmt: skip
        box = None if size is None or labels is None else _box(shape, *size)
        if box is None or not isinstance(labels[0], str) or not labels[0].strip():
            what = shape.get("type") if isinstance(shape, dict) else None
            notes.leave_out("shape without a label or a box" + (f" ({what})" if isinstance(what, str) else ""), image)
            continue
        if len(labels) > 1:
            notes.leave_out("box with several labels, the first counts", image)
        objects.append((labels[0].strip(), box))
    return Picture(image, split_of_path(image), objects, size)


def _box(shape: dict, height: int, width: int) -> Box | None:
    """In pixels; a shape has percents of the image, angles in degrees around its first corner."""
    if isinstance(shape.get("points"), list):
        points = [point for point in shape["points"] if isinstance(point, list) and len(point) == 2]
        pairs = [(number(x), number(y)) for x, y in points]
        if len(pairs) < 2 or len(pairs) < len(shape["points"]) or any(None in pair for pair in pairs):
            return None
        return around([(x * width / 100, y * height / 100) for x, y in pairs])
    ellipse = "radiusX" in shape
    keys = ("x", "y", "radiusX", "radiusY") if ellipse else ("x", "y", "width", "height")
    values = [number(shape.get(key)) for key in keys]
    if None in values:
        return None
    x, y, w, h = (v * side / 100 for v, side in zip(values, (width, height) * 2, strict=True))
    degrees = number(shape.get("rotation")) or 0
    if ellipse:
        return around_ellipse(x, y, w, h, degrees)
    return around(turned([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], degrees, x, y))
