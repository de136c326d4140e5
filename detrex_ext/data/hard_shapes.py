"""Images of the harder generated set: twenty classes, crowds of one class, shapes that are covered or cut off."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from detrex_ext.data import draw_shapes as draw

# Sizes in pixels are those of a 128 x 128 image and grow with it.
_BASE = 128.0
_RADIUS = (5.0, 44.0)
_STROKE = (1.5, 3.5)
_OBJECTS = (6, 32)
_FILLED = 0.75
_TRIES = 8
# Of an object's pixels so many are seen: under later ones, and inside of the image.
_SEEN, _INSIDE = 0.4, 0.6
_FEWEST_PIXELS = 16
# Of the objects so many stand beside the one before, of its kind and about its size.
_BESIDE = 0.45
# Sum over RGB, of 765, between a shape and what is under it.
_CONTRAST = 90.0


def _arc(low: float, high: float, count: int, radius: float = 1.0, x: float = 0.0) -> list[tuple[float, float]]:
    """Points on a circle around (x, 0) from one angle to another, in degrees."""
    angles = np.radians(np.linspace(low, high, count))
    return [(x + radius * math.cos(a), radius * math.sin(a)) for a in angles.tolist()]


def _spokes(count: int, *radii: float) -> list[tuple[float, float]]:
    """Points at equal angles, their distances in turn."""
    turn = 2 * math.pi / count
    return [(radii[i % len(radii)] * math.cos(i * turn), radii[i % len(radii)] * math.sin(i * turn))
            for i in range(count)]  # fmt: skip


def _heart() -> list[tuple[float, float]]:
    return [(16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
            for t in np.linspace(0, 2 * math.pi, 33)[:-1].tolist()]  # fmt: skip


_A, _B = 0.35, 1.0
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "circle": [],
    "rectangle": [(-1, -0.55), (1, -0.55), (1, 0.55), (-1, 0.55)],
    "triangle": _spokes(3, 1),
    "star": _spokes(10, 1, 0.45),
    "pentagon": _spokes(5, 1),
    "hexagon": _spokes(6, 1),
    "rhombus": [(1, 0), (0, 0.55), (-1, 0), (0, -0.55)],
    "trapezoid": [(-1, 0.55), (1, 0.55), (0.5, -0.55), (-0.5, -0.55)],
    "cross": [(-_A, -_B), (_A, -_B), (_A, -_A), (_B, -_A), (_B, _A), (_A, _A), (_A, _B), (-_A, _B), (-_A, _A),
              (-_B, _A), (-_B, -_A), (-_A, -_A)],
    "arrow": [(-1, -0.25), (0.1, -0.25), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.25), (-1, 0.25)],
    "chevron": [(-0.8, -0.8), (-0.1, -0.8), (0.7, 0), (-0.1, 0.8), (-0.8, 0.8), (0, 0)],
    "ell": [(-0.7, -1), (-0.1, -1), (-0.1, 0.4), (0.8, 0.4), (0.8, 1), (-0.7, 1)],
    "tee": [(-0.9, -0.8), (0.9, -0.8), (0.9, -0.25), (0.28, -0.25), (0.28, 0.9), (-0.28, 0.9), (-0.28, -0.25),
            (-0.9, -0.25)],
    "half disk": _arc(0, 180, 25),
    "crescent": [*_arc(60, 300, 25), *_arc(244.8, 115.2, 15, 0.954, 0.9)],
    "heart": _heart(),
    "house": [(-0.7, 0.8), (-0.7, -0.1), (0, -0.9), (0.7, -0.1), (0.7, 0.8)],
    "drop": [*_arc(60, 300, 21, 0.6), (1.2, 0)],
    "bolt": [(0.1, -1), (-0.5, 0.15), (-0.05, 0.15), (-0.2, 1), (0.5, -0.25), (0.05, -0.25), (0.35, -1)],
    "gear": _spokes(32, 1, 1, 0.7, 0.7),
}  # fmt: skip
CLASSES = tuple(_CORNERS)


class _Placed(NamedTuple):
    """A shape on the image.

    Attributes:
        kind: one of CLASSES.
        center, radius: pixels.
        box: XYXY of the whole shape, which may pass the image's border.
        extent: the same of its pixels.
        top, left: where the cover lies.
        cover: share of each pixel that the shape covers, (h, w).
        pixels: those that are covered by more than half, of the whole shape.
    """

    kind: str
    center: np.ndarray
    radius: float
    box: np.ndarray
    extent: np.ndarray
    top: int
    left: int
    cover: np.ndarray
    pixels: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of an image (H, W, ...) that the cover lies on, as a view."""
        return image[self.top : self.top + self.cover.shape[0], self.left : self.left + self.cover.shape[1]]


def outline(kind: str, radius: float, angle: float, aspect: float) -> np.ndarray | None:
    """(V, 2) corners of a shape that just fits a circle of `radius`; None for the circle. `aspect` narrows it."""
    if kind == "circle":
        return None
    points = np.array(_CORNERS[kind], dtype=np.float64) * np.array([1.0, aspect])
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    points *= radius / np.hypot(*points.T).max()
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return points @ turn


def one_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """One image and its objects; boxes are tight around what is seen of them.

    Returns:
        (size, size, 3) uint8, and (category id from 1, [x, y, width, height] in pixels) per object.
    """
    scale = size / _BASE
    image = draw.background(rng, size)
    draw.distract(image, rng, scale)
    owner, placed = np.full((size, size), -1), []
    for _ in range(int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))):
        for _ in range(_TRIES):
            one = _drawn(rng, size, scale, placed[-1] if placed and rng.random() < _BESIDE else None)
            if one is not None and _stays_seen(one, owner, placed):
                color = draw.contrasting(rng, one.of(image).mean(axis=(0, 1)), _CONTRAST)
                draw.paint(image, one.cover, color, one.top, one.left)
                one.of(owner)[one.cover > 0.5] = len(placed)
                placed.append(one)
                break
    objects = []
    for number, one in enumerate(placed):
        box = np.clip(_seen_box(one, one.of(owner) == number), 0, size)
        xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        objects.append((CLASSES.index(one.kind) + 1, [round(float(v), 2) for v in xywh]))
    return draw.finished(image, rng), objects


def _drawn(rng: np.random.Generator, size: int, scale: float, before: _Placed | None) -> _Placed | None:
    """A shape anywhere, or beside another; None where too little of it is on the image."""
    if before is None:
        kind, center = CLASSES[int(rng.integers(len(CLASSES)))], rng.uniform(0, size, 2)
        radius = math.exp(rng.uniform(math.log(_RADIUS[0]), math.log(_RADIUS[1]))) * scale
    else:
        kind, radius, direction = before.kind, before.radius * rng.uniform(0.8, 1.25), rng.uniform(0, 2 * math.pi)
        away = (before.radius + radius) * rng.uniform(0.45, 0.95)
        center = before.center + away * np.array([math.cos(direction), math.sin(direction)])
    points = outline(kind, radius, rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.0))
    stroke = None if rng.random() < _FILLED else min(rng.uniform(*_STROKE) * scale, radius / 3)
    left, top = (math.floor(v - radius) - 1 for v in center.tolist())
    side = 2 * math.ceil(radius) + 3
    xy = draw.pixel_centers(top, left, side, side) - center
    distance = np.hypot(xy[..., 0], xy[..., 1]) - radius if points is None else draw.polygon_distance(xy, points)
    cover = draw.coverage(distance, stroke)
    pixels, extent = int((cover > 0.5).sum()), _extent(cover > 0.5, top, left)
    cover = cover[max(-top, 0) : max(size - top, 0), max(-left, 0) : max(size - left, 0)]
    if (cover > 0.5).sum() < max(_INSIDE * pixels, _FEWEST_PIXELS):
        return None
    box = np.array(draw.bounds(points, radius)) + np.tile(center, 2)
    return _Placed(kind, center, radius, box, extent, max(top, 0), max(left, 0), cover, pixels)


def _stays_seen(one: _Placed, owner: np.ndarray, placed: list[_Placed]) -> bool:
    """Whether enough is seen of all others when it is drawn over them."""
    under = one.of(owner)
    hidden = np.bincount(under[(one.cover > 0.5) & (under >= 0)], minlength=len(placed))
    return all(
        (owner == number).sum() - hidden[number] >= max(_SEEN * placed[number].pixels, _FEWEST_PIXELS / 2)
        for number in np.flatnonzero(hidden).tolist()
    )


def _seen_box(one: _Placed, seen: np.ndarray) -> np.ndarray:
    """XYXY around the pixels that are seen; a side that is not hidden is the shape's own."""
    extent = _extent(seen, one.top, one.left)
    return np.where(extent == one.extent, one.box, extent)


def _extent(mask: np.ndarray, top: int, left: int) -> np.ndarray:
    """XYXY around the pixels of a mask that lies at (top, left); of none, all 0."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return np.zeros(4)
    return np.array([xs.min() + left, ys.min() + top, xs.max() + 1 + left, ys.max() + 1 + top])
