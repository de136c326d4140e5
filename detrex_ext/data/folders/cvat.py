"""CVAT's own XML, "CVAT for images": all annotations in one file."""

from __future__ import annotations

import math
from collections import Counter
from xml.etree.ElementTree import Element

from detrex_ext.data.folders.documents import Box, Picture, Reading, around, reading_of, with_names
from detrex_ext.data.folders.files import Unreadable, number, xml_children
from detrex_ext.data.folders.listing import Listing, split_of, split_of_path
from detrex_ext.data.folders.notes import Notes
from detrex_ext.errors import UserError

_MOST_BYTES = 1 << 30


def read_cvat(listing: Listing, path: str, notes: Notes) -> Reading:
    """The images that the file names; a box is put around polygons, masks, ellipses and turned boxes.

    Args:
        listing: of the folder.
        path: of the XML file.
        notes: takes the decisions.

    Raises:
        UserError: it cannot be read, is of a video, or none of its images is there.
    """
    pictures: dict[str, Picture] = {}
    labels: list[str] = []
    named = 0
    try:
        for element in xml_children(listing.root / path, _MOST_BYTES):
            if element.tag == "meta":
                labels += [(name.text or "").strip() for name in element.iterfind(".//labels/label/name")]
            elif element.tag == "track":
                raise UserError(f"{path}: tracks of a video\n  export it from CVAT as 'CVAT for images' or as COCO")
            elif element.tag == "image":
                named += 1
                _add(element, listing, path, pictures, notes)
    except Unreadable as error:
        raise UserError(f"{path}: {error}\n  expected CVAT's XML; export it again") from None
    if not pictures:
        raise UserError(f"{path}: it names {named} images, and none is below the folder\n"
                        "  export it with 'Save images', or name their folder: --data-images DIR")  # fmt: skip
    if others := len(set(listing.images) - set(pictures)):
        notes.say(f"{others} images that {path} does not name are not used")
    counts = Counter(key for picture in pictures.values() for key, _ in picture.objects)
    listed = [label for label in dict.fromkeys(labels) if label]
    names = [*listed, *sorted(set(counts) - set(listed))]
    notes.classes(names, f"in the order of {path}")
    return reading_of(pictures.values(), with_names(names), listing.image_root, notes)


def _add(element: Element, listing: Listing, path: str, pictures: dict[str, Picture], notes: Notes) -> None:
    name = element.get("name", "")
    subset = element.get("subset", "")
    image = listing.find(f"{subset}/{name}" if subset else name, path)
    if image is None:
        notes.leave_out("image that is named, but is not there", name)
        return
    if image in pictures:
        notes.leave_out("image named twice, the first counts", name)
        return
    objects = []
    for shape in element:
        label, box = shape.get("label", "").strip(), _box(shape)
        if not label or box is None:
            if shape.tag not in ("tag", "attribute"):
                notes.leave_out(f"{shape.tag} without a label or a box", name)
            continue
        objects.append((label, box))
    height, width = (number(element.get(key)) for key in ("height", "width"))
    size = (int(height), int(width)) if height and width and min(height, width) >= 1 else None
    pictures[image] = Picture(image, split_of(subset) or split_of_path(image), objects, size)


def _box(shape: Element) -> Box | None:
    def of(*keys: str) -> list[float] | None:
        values = [number(shape.get(key)) for key in keys]
        return None if None in values else values

    if shape.tag == "box" and (box := of("xtl", "ytl", "xbr", "ybr")):
        x0, y0, x1, y1 = box
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        return around(turned(corners, number(shape.get("rotation")) or 0, (x0 + x1) / 2, (y0 + y1) / 2))
    if shape.tag in ("polygon", "polyline"):
        pairs = [[number(v) for v in point.split(",")] for point in shape.get("points", "").split(";")]
        good = len(pairs) > 1 and all(len(pair) == 2 and None not in pair for pair in pairs)
        return around(pairs) if good else None
    if shape.tag == "mask" and (box := of("left", "top", "width", "height")):
        return box[0], box[1], box[0] + box[2], box[1] + box[3]
    if shape.tag == "ellipse" and (box := of("cx", "cy", "rx", "ry")):
        return around_ellipse(*box, number(shape.get("rotation")) or 0)
    return None


def turned(points: list[tuple[float, float]], degrees: float, x: float, y: float) -> list[tuple[float, float]]:
    """Points turned clockwise, as one looks at the image, around (x, y)."""
    if not degrees:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x + (a - x) * cos - (b - y) * sin, y + (a - x) * sin + (b - y) * cos) for a, b in points]


def around_ellipse(x: float, y: float, rx: float, ry: float, degrees: float) -> Box:
    """The box around an ellipse of these half axes, turned."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return x - half_width, y - half_height, x + half_width, y + half_height
