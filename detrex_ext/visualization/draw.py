"""Boxes, class names and scores on an image, with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# An image whose long side is shorter is enlarged, so that names can be read.
_LEAST_LONG_SIDE = 640
# Turning by the golden angle keeps the hues of neighboring classes far apart.
_GOLDEN_TURN = 0.61803398875
_Box = tuple[float, float, float, float]
_Color = tuple[int, int, int]


def class_color(index: int) -> _Color:
    """RGB of a class, the same in every image."""
    value = (1.0, 0.85, 0.7)[index // 8 % 3]
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_TURN) % 1, 0.85, value))


def draw_boxes(
    image: np.ndarray | Image.Image,
    boxes_N4: Sequence[Sequence[float]],
    classes_N: Sequence[int],
    class_names: Sequence[str],
    scores_N: Sequence[float] | None = None,
    colors: Mapping[int, _Color] | None = None,
    long_side: int = _LEAST_LONG_SIDE,
) -> Image.Image:
    """A copy of the image with boxes and "name 87%" labels; small images are enlarged.

    Args:
        image: RGB.
        boxes_N4: XYXY in pixels of ``image``, best first: labels of the first ones get the best places.
        classes_N: index into ``class_names`` of each box.
        class_names: by class index.
        scores_N: in [0, 1]; None draws names alone.
        colors: RGB by class index, where it is not ``class_color``.
        long_side: pixels that an image has at least; names are written for this size.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    scale = max(1.0, long_side / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    long_side = max(size)
    width = max(2, round(long_side / 400))
    font = ImageFont.load_default(max(12, long_side / 55))
    boxes = [tuple(float(v) * scale for v in box) for box in boxes_N4]
    inks = [(colors or {}).get(int(k)) or class_color(int(k)) for k in classes_N]
    for box, color in zip(boxes, inks, strict=True):
        pen.rectangle(_ordered(box), outline=color, width=width)
    taken: list[_Box] = []
    for i, (box, k, color) in enumerate(zip(boxes, classes_N, inks, strict=True)):
        text = class_names[int(k)] + ("" if scores_N is None else f" {100 * float(scores_N[i]):.0f}%")
        place = _place(box, pen.textbbox((0, 0), text, font=font), canvas.size, taken)
        taken.append(place)
        pen.rectangle(place, fill=color)
        pen.text((place[0] + 2, place[1] + 1), text, fill=_ink(color), font=font)
    return canvas


def beside(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Images in one row, each under its title."""
    font = ImageFont.load_default(20)
    bar, gap = 30, 6
    height = max(p.height for p in images) + bar
    # a title that is wider than its image makes room for itself
    widths = [max(p.width, 8 + ceil(font.getlength(t))) for p, t in zip(images, titles, strict=True)]
    canvas = Image.new("RGB", (sum(widths) + gap * (len(images) - 1), height), "white")
    pen, x = ImageDraw.Draw(canvas), 0
    for image, title, width in zip(images, titles, widths, strict=True):
        pen.text((x + 4, 3), title, fill="black", font=font)
        canvas.paste(image, (x, bar))
        x += width + gap
    return canvas


def below(images: Sequence[Image.Image]) -> Image.Image:
    """Images in one column."""
    gap = 6
    size = max(p.width for p in images), sum(p.height for p in images) + gap * (len(images) - 1)
    canvas, y = Image.new("RGB", size, "white"), 0
    for image in images:
        canvas.paste(image, (0, y))
        y += image.height + gap
    return canvas


def _ordered(box: _Box) -> _Box:
    x0, y0, x1, y1 = box
    return x0, y0, max(x0, x1), max(y0, y1)


def _place(box: _Box, text: _Box, canvas: tuple[int, int], taken: list[_Box]) -> _Box:
    """Where a label goes: above, inside, below or beside its box, at the first place that covers no other label."""
    wide, high = text[2] + 4, text[3] + 3
    x0, y0, x1, y1 = box
    places = [(x0, y0 - high), (x0, y0), (x1 - wide, y0 - high), (x0, y1), (x1 - wide, y1 - high), (x1 - wide, y1)]
    places += [(x0, y1 - high), (x1 - wide, y0), (x1, y0), (x0 - wide, y0), (x1, y1 - high), (x0 - wide, y1 - high)]
    kept = []
    for x, y in places:
        x = min(max(x, 0), max(canvas[0] - wide, 0))
        y = min(max(y, 0), max(canvas[1] - high, 0))
        kept.append((x, y, x + wide, y + high))
    free = [p for p in kept if not any(_overlap(p, other) for other in taken)]
    return (free or kept)[0]


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink(color: _Color) -> str:
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
