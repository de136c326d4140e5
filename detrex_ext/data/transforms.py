"""Transforms of an image and its boxes, with detectron2's pixel arithmetic.

Every transform is called as `transform(sample, rng) -> sample`; all its chance comes from the numpy Generator passed
in, so a sample is a pure function of (seed, epoch, index). `fixed` is true where the result does not depend on `rng`:
a fixed beginning of a pipeline is what the in-memory cache keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Sample:
    """What a transform takes and returns. Never changed in place: cached samples are shared.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_G4: (G, 4) float64, XYXY in pixels, continuous coordinates (the right edge of a full-width box is W).
        classes_G: (G,) int64, contiguous class indices.
    """

    image: np.ndarray
    boxes_G4: np.ndarray
    classes_G: np.ndarray

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of the image as it is now."""
        return self.image.shape[0], self.image.shape[1]

    def with_(self, image: np.ndarray, boxes_G4: np.ndarray | None = None) -> Sample:
        """The same objects with another image and, if given, other boxes."""
        return replace(self, image=image, boxes_G4=self.boxes_G4 if boxes_G4 is None else boxes_G4)

    def keep(self, mask_G: np.ndarray) -> Sample:
        """Only the objects where `mask_G` is true."""
        return replace(self, boxes_G4=self.boxes_G4[mask_G], classes_G=self.classes_G[mask_G])

    def clipped(self, min_side: float = 1e-5) -> Sample:
        """Boxes cut at the image's border; those with a side of `min_side` or less are dropped."""
        height, width = self.hw
        boxes = np.clip(self.boxes_G4, 0.0, np.array([width, height, width, height], dtype=np.float64))
        sides = boxes[:, 2:] - boxes[:, :2]
        return replace(self, boxes_G4=boxes).keep((sides > min_side).all(axis=1))


Transform = Callable[[Sample, np.random.Generator], Sample]


def resize_to(sample: Sample, height: int, width: int) -> Sample:
    """Resize to (height, width): Pillow's anti-aliased bilinear filter on uint8; boxes scaled exactly."""
    old_height, old_width = sample.hw
    if (old_height, old_width) == (height, width):
        return sample
    image = np.asarray(Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR))
    scale = np.array([width / old_width, height / old_height] * 2)
    return sample.with_(image, sample.boxes_G4 * scale)


def shortest_edge_size(height: int, width: int, short: int, max_size: float) -> tuple[int, int]:
    """(height, width): the short side is `short`, unless the long one would pass `max_size`; halves up, never 0."""
    scale = short / min(height, width)
    new_h, new_w = (float(short), scale * width) if height < width else (scale * height, float(short))
    longest = max(new_h, new_w)
    if longest > max_size:
        new_h, new_w = new_h * (max_size / longest), new_w * (max_size / longest)
    return max(int(new_h + 0.5), 1), max(int(new_w + 0.5), 1)


class Resize:
    """Resize to a fixed (height, width), whatever the aspect."""

    fixed = True

    def __init__(self, shape: int | Sequence[int]) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else (int(shape[0]), int(shape[1]))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample at that size; nothing is drawn from `rng`."""
        return resize_to(sample, *self.shape)


class ResizeShortestEdge:
    """Resize so that the short side has a given length, keeping the aspect.

    Args:
        short_edge_length: one length; or the lengths to choose from ("choice"); or (low, high), both
            included ("range").
        max_size: the long side is never longer; None: no limit.
        sample_style: "choice" or "range".
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int | None = None,
        sample_style: str = "choice",
    ) -> None:
        if sample_style not in ("choice", "range"):
            raise ValueError(f"ResizeShortestEdge: sample_style is {sample_style!r}; expected 'choice' or 'range'")
        if short_edge_length is None:
            raise ValueError("where dataset.short_edge is null a training chooses it: name its run folder, or set it")
        lengths = (short_edge_length,) if isinstance(short_edge_length, int) else tuple(map(int, short_edge_length))
        if sample_style == "range" and len(lengths) == 1:
            lengths = lengths * 2
        if not lengths or min(lengths) < 1 or (sample_style == "range" and len(lengths) != 2):
            raise ValueError(f"ResizeShortestEdge: short_edge_length {lengths} does not suit '{sample_style}'")
        self.lengths, self.style = lengths, sample_style
        self.max_size = float("inf") if max_size is None else float(max_size)
        if self.max_size < 1:
            raise ValueError(f"ResizeShortestEdge: max_size is {max_size}; expected at least 1, or None")
        self.fixed = len(set(lengths)) == 1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample at a size drawn from `rng`, unless there is only one."""
        if self.fixed:
            short = self.lengths[0]
        elif self.style == "range":
            short = int(rng.integers(self.lengths[0], self.lengths[1] + 1))
        else:
            short = self.lengths[int(rng.integers(len(self.lengths)))]
        return resize_to(sample, *shortest_edge_size(*sample.hw, short, self.max_size))


class RandomFlip:
    """Mirror with probability `prob`, left-right or top-bottom."""

    fixed = False

    def __init__(self, prob: float = 0.5, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError("RandomFlip: exactly one of horizontal and vertical; use two RandomFlip for both")
        self.prob, self.horizontal = prob, horizontal

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample itself, or mirrored; the image is then a view."""
        if rng.random() >= self.prob:
            return sample
        height, width = sample.hw
        boxes = sample.boxes_G4.copy()
        if self.horizontal:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            return sample.with_(sample.image[:, ::-1], boxes)
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
        return sample.with_(sample.image[::-1], boxes)


class RandomTranspose:
    """Exchange x and y with probability `prob`, on square images only (others would change their shape)."""

    fixed = False

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample itself, or with x and y exchanged; the image is then a view."""
        height, width = sample.hw
        if rng.random() >= self.prob or height != width:
            return sample
        return sample.with_(sample.image.transpose(1, 0, 2), sample.boxes_G4[:, [1, 0, 3, 2]])


class RandomCrop:
    """Cut out a rectangle; boxes are moved, and clipped only at the end of the pipeline.

    Args:
        crop_type: "absolute_range": height and width are each a uniform integer in [min(side, low), min(side, high)];
            "absolute": exactly `crop_size` = (height, width), or the whole side where the image is smaller.
        crop_size: (low, high) or (height, width).
    """

    fixed = False

    def __init__(self, crop_type: str = "absolute_range", crop_size: Sequence[int] = (384, 600)) -> None:
        if crop_type not in ("absolute_range", "absolute"):
            raise ValueError(f"RandomCrop: crop_type is {crop_type!r}; expected 'absolute_range' or 'absolute'")
        self.crop_type, self.crop_size = crop_type, (int(crop_size[0]), int(crop_size[1]))
        if crop_type == "absolute_range" and self.crop_size[0] > self.crop_size[1]:
            raise ValueError(f"RandomCrop: crop_size {self.crop_size} must be (low, high)")

    def _side(self, side: int, which: int, rng: np.random.Generator) -> int:
        if self.crop_type == "absolute":
            return min(side, self.crop_size[which])
        low, high = self.crop_size
        return int(rng.integers(min(side, low), min(side, high) + 1))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample in the cut; the image is a view, and boxes may lie outside of it."""
        height, width = sample.hw
        crop_h, crop_w = self._side(height, 0, rng), self._side(width, 1, rng)
        top = int(rng.integers(height - crop_h + 1))
        left = int(rng.integers(width - crop_w + 1))
        image = sample.image[top : top + crop_h, left : left + crop_w]
        return sample.with_(image, sample.boxes_G4 - np.array([left, top, left, top], dtype=np.float64))
