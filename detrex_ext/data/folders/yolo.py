"""YOLO: a text file for each image, with a line for each object, in fractions of the image."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

from detrex_ext.data.folders.documents import Box, Picture, Reading, around, reading_of, size_or_none
from detrex_ext.data.folders.files import Unreadable, number, read_lines
from detrex_ext.data.folders.listing import Listing
from detrex_ext.data.folders.notes import Notes, shortened
from detrex_ext.data.folders.yolo_names import Description
from detrex_ext.errors import UserError

_MOST_BYTES = 8 << 20
# A box may reach over the border a little; a number beyond is one of pixels.
_MOST_FRACTION = 2.0
_EXPECTED = "expected lines of: class, x and y of the middle, width, height, in fractions of the image"


class _Object(NamedTuple):
    class_: int
    box: Box
    where: str


def is_label(listing: Listing, path: str) -> bool:
    """Whether the first line of a text file is one of a label."""
    try:
        lines = read_lines(listing.root / path, _MOST_BYTES)
    except Unreadable:
        return False
    return bool(lines) and _numbers(lines[0]) is not None


def read_yolo(listing: Listing, labels: list[str], notes: Notes, description: str = "") -> Reading:
    """The images of a folder with text files; one without is background.

    Args:
        listing: of the folder.
        labels: its label files.
        notes: takes the decisions.
        description: data.yaml or obj.data; "" for none.

    Raises:
        UserError: no image, a class that is not named, boxes in pixels, or a description that cannot be used.
    """
    about = Description(listing, notes, description)
    read, damaged = _read_all(listing, labels, notes, about.keypoints)
    if not read and not any(about.split_of(image) is not None for image in listing.images):
        raise UserError("\n  ".join([f"{len(labels)} YOLO label files, and none with its image below the folder",
                        *notes.left_out()[:3], "name the folder of the images: --data-images DIR"]))  # fmt: skip
    _check(read, about, notes)
    pictures, unnamed, empty = [], [], 0
    for image in listing.images:
        split = about.split_of(image)
        if image in damaged:
            continue
        if split is None:
            unnamed.append(image)
            continue
        objects = read.get(image, [])
        size = size_or_none(listing.image_root / image) if objects else None
        height, width = size or (0, 0)
        boxes = [
            (found.class_, (found.box[0] * width, found.box[1] * height, found.box[2] * width, found.box[3] * height))
            for found in (objects if size else [])
        ]
        empty += not objects
        pictures.append(Picture(image, split, boxes, size))
    if unnamed:
        notes.say(f"{len(unnamed)} images that {description} does not name are not used: {shortened(unnamed, 3)}")
    if empty:
        notes.say(f"{empty} images without labels are background")
    classes = _classes(about, read, notes)
    return reading_of(pictures, classes, listing.image_root, notes)


def _read_all(
    listing: Listing, labels: list[str], notes: Notes, keypoints: bool
) -> tuple[dict[str, list[_Object]], set[str]]:
    """Objects by image, and the images of which the labels cannot be read."""
    read, damaged = {}, set()
    for path, image in listing.pairs(labels).items():
        if image is None:
            notes.leave_out("label file without an image, or with several that could be meant", path)
            continue
        try:
            lines = read_lines(listing.root / path, _MOST_BYTES)
        except Unreadable as error:
            notes.leave_out(f"label file that cannot be read, with its image ({error})", path)
            damaged.add(image)
            continue
        read[image] = []
        for place, line in enumerate(lines, 1):
            where = f"{path} line {place}"
            numbers = _numbers(line)
            if numbers is None:
                notes.leave_out(f"line that is no label ({_EXPECTED})", f"{where}: {line[:60]}")
            else:
                read[image].append(_object(numbers, where, notes, keypoints))
    return read, damaged


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line: a class and four or more; None where it is another."""
    words = line.split()
    numbers = [number(word) for word in words]
    good = len(words) > 4 and None not in numbers and 0 <= numbers[0] < 1e6 and numbers[0].is_integer()
    return numbers if good else None


def _object(numbers: list[float], where: str, notes: Notes, keypoints: bool) -> _Object:
    class_, *rest = numbers
    if len(rest) < 6 or len(rest) % 2 or keypoints:
        if len(rest) > 4 and not keypoints:
            notes.leave_out("number behind the box (a score, a track), not used", where)
        x, y, w, h = rest[:4]
        return _Object(int(class_), (x - w / 2, y - h / 2, x + w / 2, y + h / 2), where)
    notes.leave_out("polygon or turned box, the box around it counts", where)
    return _Object(int(class_), around(zip(rest[::2], rest[1::2], strict=True)), where)


def _check(read: dict[str, list[_Object]], about: Description, notes: Notes) -> None:
    """Refuses classes without a name, and pixels; a few boxes that no image can have are left out."""
    found = [one for objects in read.values() for one in objects]
    wrong = [one for one in found if about.names and one.class_ not in about.names]
    if wrong:
        counts = Counter(one.class_ for one in wrong)
        shown = ", ".join(f"{class_} ({count} boxes)" for class_, count in sorted(counts.items())[:8])
        raise UserError(f"YOLO labels have classes that {about.origin} does not name: {shown}\n"
                        f"  first: {wrong[0].where}; it names {min(about.names)} to {max(about.names)}: "
                        f"{shortened(list(about.names.values()))}\n  add names, or take the lines out")  # fmt: skip
    beyond = {one.where for one in found if max(map(abs, one.box)) > _MOST_FRACTION}
    if len(beyond) * 2 > len(found):
        first = next(one.where for one in found if one.where in beyond)
        raise UserError(f"{len(beyond)} of {len(found)} YOLO boxes are no fractions of the image, so perhaps pixels\n"
                        f"  first: {first}; {_EXPECTED}: divide by its width and height")  # fmt: skip
    for image, objects in read.items():
        for one in (one for one in objects if one.where in beyond):
            notes.leave_out("box of no fractions of the image", one.where)
        read[image] = [one for one in objects if one.where not in beyond]


def _classes(about: Description, read: dict[str, list[_Object]], notes: Notes) -> list[tuple[int, str]]:
    if about.names:
        classes = sorted(about.names.items())
        notes.classes([name for _, name in classes], f"in the order of {about.origin}")
        return classes
    numbers = sorted({one.class_ for objects in read.values() for one in objects})
    if not numbers:
        raise UserError("YOLO labels without any box, and no file that names classes\n"
                        "  expected data.yaml with names, or classes.txt")  # fmt: skip
    notes.classes([f"class {k}" for k in numbers], "by their numbers: no data.yaml or classes.txt names them")
    return [(k, f"class {k}") for k in numbers]


def label_files(listing: Listing) -> list[str]:
    """Text files that are labels: named as an image, or in a folder of labels, or of what labels are."""
    stems = {PurePosixPath(image).stem.casefold() for image in listing.images}
    found = []
    for path in listing.ending(".txt"):
        name = PurePosixPath(path)
        if name.parent.name.casefold() == "labels" or name.stem.casefold() in stems:
            found.append(path)
        elif name.parent.name not in ("", "Main") and is_label(listing, path):
            found.append(path)
    return found
