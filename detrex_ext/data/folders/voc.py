"""Pascal VOC: an XML file for each image, as LabelImg, CVAT, Label Studio and Roboflow write it too."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element

from detrex_ext.data.file_names import plain
from detrex_ext.data.folders.documents import Box, Picture, Reading, reading_of, with_names
from detrex_ext.data.folders.files import Unreadable, number, read_lines, xml_children
from detrex_ext.data.folders.listing import Listing, split_of_path
from detrex_ext.data.folders.notes import Notes
from detrex_ext.errors import UserError

_MOST_BYTES = 8 << 20
_LISTS = {"train": "train", "val": "val", "test": "test", "trainval": "train"}


class _Label(NamedTuple):
    """What an XML file says."""

    filename: str
    size: tuple[int, int] | None
    objects: list[tuple[str, Box]]


def read_voc(listing: Listing, labels: list[str], notes: Notes) -> Reading:
    """The images of a folder with XML files.

    An image without a label file is background. Classes are those of CVAT's labelmap.txt, else the names found, sorted.

    Args:
        listing: of the folder.
        labels: its label files.
        notes: takes the decisions.

    Raises:
        UserError: no label has an image, or none can be read.
    """
    pairs, read, damaged = listing.pairs(labels), {}, set()
    for path in labels:
        try:
            label = _read(listing, path, notes)
        except Unreadable as error:
            notes.leave_out(f"label file that cannot be read, with its image ({error})", path)
            damaged.add(pairs[path])
            continue
        image = pairs[path] or listing.find(label.filename, path)
        if image is None:
            notes.leave_out("label file without an image, or with several that could be meant", path)
        elif image in read:
            notes.leave_out("second label file of an image", path)
        else:
            read[image] = label
    if not read:
        first = notes.left_out()
        raise UserError(f"{len(labels)} Pascal VOC files, and none with its image below the folder\n  "
                        + "\n  ".join(first[:3]) + "\n  name the folder of the images: --data-images DIR")  # fmt: skip
    splits = _splits(listing, notes)
    pictures = [
        Picture(path, _split(path, splits), *((read[path].objects, read[path].size) if path in read else ([], None)))
        for path in listing.images
        if path not in damaged or path in read
    ]
    if empty := len(pictures) - len(read):
        notes.say(f"{empty} images without a label file are background")
    counts = Counter(name for label in read.values() for name, _ in label.objects)
    return reading_of(pictures, _classes(listing, counts, notes), listing.image_root, notes)


def _read(listing: Listing, path: str, notes: Notes) -> _Label:
    parts = list(xml_children(listing.root / path, _MOST_BYTES))
    texts = {part.tag: (part.text or "").strip() for part in parts}
    size = next((part for part in parts if part.tag == "size"), Element("size"))
    height, width = (number(size.findtext(key)) for key in ("height", "width"))
    sizes = (int(height), int(width)) if height and width and min(height, width) >= 1 else None
    # The challenge's own files count pixels from 1; those of all other tools from 0.
    database = next((part.findtext("database") or "" for part in parts if part.tag == "source"), "")
    origin = 1.0 if "The VOC20" in database else 0.0
    objects = []
    for part in (part for part in parts if part.tag == "object"):
        name, box = (part.findtext("name") or "").strip(), _box(part, origin)
        if not name or box is None:
            notes.leave_out("object without a name or four numbers", path)
            continue
        if box[0] > box[2] or box[1] > box[3]:
            notes.leave_out("box with its corners swapped, put in order", path)
            box = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
        if (part.findtext("difficult") or "").strip() == "1":
            notes.leave_out("object marked as difficult, learned and measured like others", path)
        objects.append((name, box))
    return _Label(texts.get("filename", ""), sizes, objects)


def _box(part: Element, origin: float) -> Box | None:
    box = part.find("bndbox")
    values = [] if box is None else [number(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")]
    if len(values) != 4 or None in values:
        return None
    return values[0] - origin, values[1] - origin, values[2], values[3]


def _splits(listing: Listing, notes: Notes) -> dict[str, str]:
    """Split by the plain name of an image, with or without its ending, as ImageSets/Main has it."""
    found: dict[str, str] = {}
    used = []
    for path in listing.ending(".txt"):
        name = PurePosixPath(path)
        if name.parent.name != "Main" or name.stem not in _LISTS:
            continue
        try:
            lines = read_lines(listing.root / path, _MOST_BYTES)
        except Unreadable as error:
            raise UserError(f"{path}: {error}") from None
        used.append(path)
        for line in lines:
            stem = plain(PurePosixPath(re.sub(r"\s+-?[01]$", "", line)).name)  # a flag, as lists of a class have it
            if name.stem != "trainval" or stem not in found:
                found[stem] = _LISTS[name.stem]
    if used:
        notes.say(f"splits by {', '.join(used)}")
    return found


def _split(path: str, splits: dict[str, str]) -> str:
    name = PurePosixPath(path)
    return splits.get(plain(name.stem)) or splits.get(plain(name.name)) or ("" if splits else split_of_path(path))


def _classes(listing: Listing, counts: Counter, notes: Notes) -> list[tuple[str, str]]:
    """Those of labelmap.txt, then others that are found, sorted."""
    listed: list[str] = []
    for path in (p for p in listing.files if PurePosixPath(p).name == "labelmap.txt"):
        try:
            lines = read_lines(listing.root / path)
        except Unreadable:
            continue
        names = [line.split(":")[0].strip() for line in lines if not line.startswith("#")]
        listed = [name for name in dict.fromkeys(names) if name and (name != "background" or counts[name])]
        break
    names = [*listed, *sorted(set(counts) - set(listed))]
    notes.classes(names, "in the order of labelmap.txt" if listed else "the names found, sorted")
    return with_names(names)
