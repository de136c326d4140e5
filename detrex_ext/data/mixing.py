"""Training samples of several images: transforms that draw others of the set, in a part of the training.

A mixing transform is called as `step(sample, rng, progress, other)`. `other()` gives a prepared sample of any image of
the set, drawn by the same `rng`, so that the result is a function of (seed, epoch, index) and of progress alone. Where
it is off nothing is drawn: the stream is that of a pipeline without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from detrex_ext.data.affine import PIXEL_MEAN, visible
from detrex_ext.data.transforms import Sample, resize_to

Draw = Callable[[], Sample]


class Mixing:
    """Makes one sample of several, with a probability, in a part of the training; subclasses write `mix`.

    Args:
        prob: share of the samples; 0 = off.
        since: progress of the training, 0 to 1, from which on it is done.
        until: progress before which it is done.

    Attributes:
        images: that a sample is made of.
        on: whether it is ever done.
    """

    fixed = False
    images = 2

    def __init__(self, prob: float, since: float = 0.0, until: float = 1.0) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"{type(self).__name__}: prob is {prob}; expected a probability, 0 to 1")
        if not 0 <= since <= until <= 1:
            raise ValueError(f"{type(self).__name__}: since={since}, until={until}; expected 0 <= since <= until <= 1")
        self.prob, self.since, self.until = prob, since, until
        self.on = prob > 0 and since < until

    def __call__(self, sample: Sample, rng: np.random.Generator, progress: float, other: Draw) -> Sample:
        """The sample itself, or mixed with others."""
        if not self.on or not self.since <= progress < self.until or rng.random() >= self.prob:
            return sample
        return self.mix(sample, rng, other)

    def most_added(self, most: int) -> int:
        """Objects that a sample may gain where an image has `most`."""
        return (self.images - 1) * most

    def mix(self, sample: Sample, rng: np.random.Generator, other: Draw) -> Sample:
        """One sample, of the size of the first image."""
        raise NotImplementedError


class Mosaic(Mixing):
    """Four images on one canvas, each in its own quarter at its own scale and place (YOLOv4, arXiv 2004.10934).

    Args:
        scale: (low, high) of the images, uniform in the logarithm; at 1 an image has the area of the canvas.
        center: (low, high) of where the four meet, as shares of the sides.
        min_visible: boxes of which a smaller part of the area lies in the quarter are dropped.
        fill: RGB of what no image covers.
    """

    images = 4

    def __init__(
        self,
        prob: float = 0.5,
        scale: Sequence[float] = (0.5, 1.0),
        center: Sequence[float] = (0.3, 0.7),
        min_visible: float = 0.35,
        fill: Sequence[float] = PIXEL_MEAN,
        since: float = 0.0,
        until: float = 1.0,
    ) -> None:
        super().__init__(prob, since, until)
        self.scale, self.center, self.min_visible, self.fill = scale, center, min_visible, fill

    def mix(self, sample: Sample, rng: np.random.Generator, other: Draw) -> Sample:
        """The sample in the upper left quarter, three others beside and below it."""
        height, width = sample.hw
        row, column = (round(side * rng.uniform(*self.center)) for side in (height, width))
        image, boxes, classes = np.empty_like(sample.image, order="C"), [], []
        for top, bottom in ((0, row), (row, height)):
            for left, right in ((0, column), (column, width)):
                one = other() if top or left else sample
                scale = relative_scale(self.scale, one, sample, rng)
                part, _ = placed(one, (bottom - top, right - left), scale, self.fill, rng)
                part = visible(part, self.min_visible)
                image[top:bottom, left:right] = part.image
                boxes.append(part.boxes_G4 + np.array([left, top, left, top], dtype=np.float64))
                classes.append(part.classes_G)
        return Sample(image, np.concatenate(boxes), np.concatenate(classes))


class MixUp(Mixing):
    """Another image shines through, and the objects of both are learned (arXiv 1710.09412; 1902.04103 for boxes).

    Args:
        share: (low, high) of the first image in the blend, sampled uniformly; the other has the rest where it lies.
        scale: (low, high) of the other image, uniform in the logarithm; at 1 it has the area of the first.
        min_visible: boxes of the other of which a smaller part of the area stays on the canvas are dropped.
    """

    def __init__(
        self,
        prob: float = 0.5,
        share: Sequence[float] = (0.45, 0.55),
        scale: Sequence[float] = (0.8, 1.25),
        min_visible: float = 0.35,
        since: float = 0.0,
        until: float = 1.0,
    ) -> None:
        super().__init__(prob, since, until)
        self.share, self.scale, self.min_visible = share, scale, min_visible

    def mix(self, sample: Sample, rng: np.random.Generator, other: Draw) -> Sample:
        """The sample under another, with the objects of both."""
        share = rng.uniform(*self.share)
        over = other()
        over, at = placed(over, sample.hw, relative_scale(self.scale, over, sample, rng), (0, 0, 0), rng)
        over = visible(over, self.min_visible)
        image = sample.image.copy(order="C")
        image[at] = np.rint(share * image[at] + (1 - share) * over.image[at]).astype(np.uint8)
        boxes = np.concatenate([sample.boxes_G4, over.boxes_G4])
        return Sample(image, boxes, np.concatenate([sample.classes_G, over.classes_G]))


def placed(
    sample: Sample, hw: tuple[int, int], scale: float, fill: Sequence[float], rng: np.random.Generator
) -> tuple[Sample, tuple[slice, slice]]:
    """An image at a scale on a canvas of another size, anywhere that leaves no unneeded border.

    Args:
        sample: the image.
        hw: size of the canvas.
        scale: of the image.
        fill: RGB of the rest of the canvas.
        rng: draws the place.

    Returns:
        The canvas, with boxes that may pass its border; and the rows and columns that the image covers.
    """
    sample = resize_to(sample, *(max(round(scale * side), 1) for side in sample.hw))
    canvas = np.empty((*hw, 3), dtype=np.uint8)
    canvas[:] = np.rint(fill)
    starts, seen, covered = [], [], []
    for side, length in zip(hw, sample.hw, strict=True):
        start = int(rng.integers(min(side - length, 0), max(side - length, 0) + 1))
        low, high = max(start, 0), min(start + length, side)
        starts.append(start)
        covered.append(slice(low, high))
        seen.append(slice(low - start, high - start))
    canvas[tuple(covered)] = sample.image[tuple(seen)]
    top, left = starts
    boxes = sample.boxes_G4 + np.array([left, top, left, top], dtype=np.float64)
    return replace(sample, image=canvas, boxes_G4=boxes), tuple(covered)


def relative_scale(bounds: Sequence[float], sample: Sample, canvas: Sample, rng: np.random.Generator) -> float:
    """Of an image, where at 1 it has the area of the canvas: images of a set may be of very different sizes."""
    drawn = math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))
    return drawn * math.sqrt(math.prod(canvas.hw) / math.prod(sample.hw))
