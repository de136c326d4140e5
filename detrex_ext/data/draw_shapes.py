"""Anti-aliased drawing by signed distance: no rasterizer whose version could change the pixels."""

from __future__ import annotations

import math

import numpy as np

CLASSES = ("circle", "rectangle", "triangle", "star")
# Inner over outer radius of the five-point star.
_STAR_INNER = 0.45
# Smallest difference between a shape's color and the mean color under its box (sum over RGB, of 765).
_CONTRAST = 120.0


def outline_points(kind: str, radius: float, angle: float, aspect: float = 1.0) -> np.ndarray | None:
    """(V, 2) corners of a shape inscribed in a circle of `radius` around the origin; None for the circle itself.

    Args:
        kind: one of CLASSES.
        radius: pixels.
        angle: rotation, radians.
        aspect: short over long side of the rectangle.
    """
    if kind == "circle":
        return None
    if kind == "rectangle":
        corner = math.atan(aspect)
        angles = np.array([corner, math.pi - corner, math.pi + corner, -corner])
        radii = np.full(4, radius)
    elif kind == "triangle":
        angles, radii = np.arange(3) * (2 * math.pi / 3), np.full(3, radius)
    else:
        angles = np.arange(10) * (math.pi / 5)
        radii = np.where(np.arange(10) % 2 == 0, radius, radius * _STAR_INNER)
    angles = angles + angle
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def bounds(points: np.ndarray | None, radius: float) -> tuple[float, float, float, float]:
    """Tight (x0, y0, x1, y1) around the origin."""
    if points is None:
        return -radius, -radius, radius, radius
    low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def polygon_distance(xy: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Signed distance of (..., 2) positions to a closed polygon (V, 2): negative inside."""
    nearest = np.full(xy.shape[:-1], np.inf)
    inside = np.zeros(xy.shape[:-1], dtype=bool)
    x, y = xy[..., 0], xy[..., 1]
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        nearest = np.minimum(nearest, _squared_to_segment(x, y, ax, ay, bx, by))
        if ay != by:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)


def _squared_to_segment(x: np.ndarray, y: np.ndarray, ax: float, ay: float, bx: float, by: float) -> np.ndarray:
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
    return (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2


def coverage(distance: np.ndarray, stroke: float | None = None) -> np.ndarray:
    """Share of each pixel that is covered: of the whole shape, or of a line of width `stroke` inside its border."""
    if stroke is not None:
        distance = np.abs(distance + stroke / 2) - stroke / 2
    return np.clip(0.5 - distance, 0.0, 1.0)


def paint(image: np.ndarray, cover: np.ndarray, color: np.ndarray, top: int = 0, left: int = 0) -> None:
    """Blend `color` (3,) into a float (H, W, 3) image, in place, with (h, w) coverage at (top, left)."""
    part = image[top : top + cover.shape[0], left : left + cover.shape[1]]
    part += cover[:, :, None] * (color - part)


def pixel_centers(top: int, left: int, height: int, width: int) -> np.ndarray:
    """(height, width, 2) x, y of pixel centers."""
    y, x = np.mgrid[top : top + height, left : left + width]
    return np.stack([x + 0.5, y + 0.5], axis=-1)


def draw_shape(
    image: np.ndarray,
    center: tuple[float, float],
    radius: float,
    points: np.ndarray | None,
    color: np.ndarray,
    stroke: float | None,
) -> None:
    """Draw one shape into a float (H, W, 3) image, in place."""
    height, width = image.shape[:2]
    cx, cy = center
    left, top = max(int(cx - radius) - 1, 0), max(int(cy - radius) - 1, 0)
    right, bottom = min(int(cx + radius) + 3, width), min(int(cy + radius) + 3, height)
    xy = pixel_centers(top, left, bottom - top, right - left) - np.array([cx, cy])
    distance = np.hypot(xy[..., 0], xy[..., 1]) - radius if points is None else polygon_distance(xy, points)
    paint(image, coverage(distance, stroke), color, top, left)


def draw_line(image: np.ndarray, start: np.ndarray, end: np.ndarray, thickness: float, color: np.ndarray) -> None:
    """Draw a straight line, in place; positions are x, y in pixels."""
    xy = pixel_centers(0, 0, *image.shape[:2])
    distance = np.sqrt(_squared_to_segment(xy[..., 0], xy[..., 1], *start, *end)) - thickness / 2
    paint(image, coverage(distance), color)


def draw_arc(
    image: np.ndarray,
    center: np.ndarray,
    radius: float,
    middle: float,
    half: float,
    thickness: float,
    color: np.ndarray,
) -> None:
    """Draw the part of a circle within `half` radians of direction `middle`, in place."""
    xy = pixel_centers(0, 0, *image.shape[:2]) - center
    turn = np.angle(np.exp(1j * (np.arctan2(xy[..., 1], xy[..., 0]) - middle)))
    distance = np.abs(np.hypot(xy[..., 0], xy[..., 1]) - radius) - thickness / 2
    paint(image, np.where(np.abs(turn) <= half, coverage(distance), 0.0), color)


def smooth_noise(rng: np.random.Generator, size: int, cells: int, amplitude: float) -> np.ndarray:
    """(size, size, 3) noise that varies over size/cells pixels: a random grid, interpolated by raised cosines."""
    grid = rng.normal(0.0, amplitude, size=(cells + 1, cells + 1, 3))
    position = (np.arange(size) + 0.5) * cells / size
    lower = np.minimum(position.astype(np.int64), cells - 1)
    blend = (1 - np.cos(np.pi * (position - lower))) / 2
    weights = np.zeros((size, cells + 1))
    weights[np.arange(size), lower] = 1 - blend
    weights[np.arange(size), lower + 1] = blend
    rows = np.einsum("yr,rcd->ycd", weights, grid)
    return np.einsum("xc,ycd->yxd", weights, rows)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float: a color that varies slowly."""
    return rng.uniform(40, 215, size=3) + smooth_noise(rng, size, int(rng.integers(3, 9)), rng.uniform(8, 28))


def finished(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image as uint8, with noise on every pixel; in place until then."""
    image += rng.normal(0.0, rng.uniform(4, 16), size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def contrasting(rng: np.random.Generator, under: np.ndarray, least: float = _CONTRAST) -> np.ndarray:
    """A random color that differs from the mean color (3,) of what it is drawn on."""
    color = rng.uniform(0, 255, size=3)
    while np.abs(color - under).sum() < least:
        color = rng.uniform(0, 255, size=3)
    return color


def distract(image: np.ndarray, rng: np.random.Generator, scale: float) -> None:
    """Draw a few lines and arcs that are no objects, in place; `scale` is the image's side over 128."""
    size = image.shape[0]
    for _ in range(int(rng.integers(2, 8))):
        color, thickness = rng.uniform(0, 255, size=3), rng.uniform(0.8, 2.5) * scale
        if rng.random() < 0.5:
            draw_line(image, rng.uniform(0, size, 2), rng.uniform(0, size, 2), thickness, color)
        else:
            radius, middle = rng.uniform(8, 50) * scale, rng.uniform(-math.pi, math.pi)
            draw_arc(image, rng.uniform(0, size, 2), radius, middle, rng.uniform(0.3, 1.2), thickness, color)
