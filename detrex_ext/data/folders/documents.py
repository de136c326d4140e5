"""COCO documents made of images and boxes that were read in other forms."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detrex_ext.data.folders.notes import Notes
from detrex_ext.data.read import UnreadableImage, image_size

Box = tuple[float, float, float, float]


class Picture(NamedTuple):
    """An image and its objects.

    Attributes:
        path: below the folder.
        split: "train", "val", "test", or "" where the folder does not say.
        objects: (class, [x0, y0, x1, y1] in pixels); a class is whatever tells it from others.
        size: (height, width) that the labels say; None where they do not.
    """

    path: str
    split: str
    objects: list[tuple[Hashable, Box]]
    size: tuple[int, int] | None = None


@dataclass
class Reading:
    """What a folder was read as.

    Attributes:
        documents: a COCO document for each split; "" where the folder has no splits.
        images: the folder that the names of their images are relative to.
        notes: what was decided.
        files: for each split that is a COCO file already, with nothing to change: the file and its image folder.
    """

    documents: dict[str, dict[str, Any]]
    images: Path
    notes: Notes
    files: dict[str, tuple[Path, Path]] = field(default_factory=dict)


def reading_of(
    pictures: Iterable[Picture], classes: Sequence[tuple[Hashable, str]], images: Path, notes: Notes
) -> Reading:
    """A COCO document for each split of the pictures, sorted by path.

    Args:
        pictures: in any order.
        classes: (class, its name), in the order of their ids, which begin with 1.
        images: the folder that they lie in; sizes that are not known are read there.
        notes: what was decided.
    """
    ids = {key: number for number, (key, _) in enumerate(classes, 1)}
    pictures = list(pictures)
    if {"train", "val"} & {picture.split for picture in pictures}:
        for picture in (p for p in pictures if not p.split):
            notes.leave_out("image of no split, beside such of splits, not used", picture.path)
        pictures = [picture for picture in pictures if picture.split]
    found: dict[str, dict[str, Any]] = {}
    for picture in sorted(pictures, key=lambda p: p.path):
        document = found.setdefault(picture.split, {"images": [], "annotations": []})
        image_id = len(document["images"]) + 1
        size = picture.size or size_or_none(images / picture.path)
        sizes = {} if size is None else {"height": size[0], "width": size[1]}
        document["images"].append({"id": image_id, "file_name": picture.path, **sizes})
        for key, (x0, y0, x1, y1) in picture.objects:
            box = [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)]
            number = len(document["annotations"]) + 1
            whose = {"id": number, "image_id": image_id, "category_id": ids[key]}
            document["annotations"].append({**whose, "bbox": box, "area": round(box[2] * box[3], 3), "iscrowd": 0})
    for document in found.values():
        document["categories"] = [{"id": ids[key], "name": name} for key, name in classes]
    return Reading(found, images, notes)


def size_or_none(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image file; None for one that cannot be opened, which the check tells of."""
    try:
        return image_size(path)
    except UnreadableImage:
        return None


def around(points: Iterable[tuple[float, float]]) -> Box:
    """The box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def with_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Classes that are told by their names alone."""
    return [(name, name) for name in names]
