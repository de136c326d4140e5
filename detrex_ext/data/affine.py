"""Random zoom, placement and color for small images and training from nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from detrex_ext.data.transforms import Sample

# ImageNet statistics in RGB, 0-255: what models of this package normalize with.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class RandomAffine:
    """Scale, aspect and translation in one bilinear resampling; the canvas keeps its size.

    An image larger than the canvas is cut, a smaller one is placed on `fill`; in both cases its position is uniform
    over what leaves no unneeded border, plus `translate`.

    Args:
        scale: (low, high), sampled uniformly in the logarithm.
        aspect: width/height changes by exp(u), u uniform in [-aspect, aspect]; the area does not.
        translate: further shift, as a fraction of the canvas, uniform in [-translate, translate].
        min_visible: boxes of which a smaller part of the area stays on the canvas are dropped.
        fill: RGB of what lies outside the image; the mean, so that it is near zero when normalized.
    """

    fixed = False

    def __init__(
        self,
        scale: Sequence[float] = (0.75, 1.3),
        aspect: float = 0.1,
        translate: float = 0.1,
        min_visible: float = 0.35,
        fill: Sequence[float] = PIXEL_MEAN,
    ) -> None:
        self.log_scale = (math.log(scale[0]), math.log(scale[1]))
        self.aspect, self.translate, self.min_visible = aspect, translate, min_visible
        self.fill = tuple(int(v + 0.5) for v in fill)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample under a random map; boxes are clipped, and those of which too little is left are dropped."""
        height, width = sample.hw
        zoom = rng.uniform(*self.log_scale)
        bend = rng.uniform(-self.aspect, self.aspect) / 2
        scale_x, scale_y = math.exp(zoom + bend), math.exp(zoom - bend)
        left = self._offset(width, scale_x, rng)
        top = self._offset(height, scale_y, rng)
        # Pillow wants the map from output to input coordinates; both are continuous (pixel centers at halves).
        inverse = (1 / scale_x, 0.0, -left / scale_x, 0.0, 1 / scale_y, -top / scale_y)
        image = Image.fromarray(sample.image).transform(
            (width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=self.fill
        )
        boxes = sample.boxes_G4 * np.array([scale_x, scale_y] * 2) + np.array([left, top] * 2)
        return visible(sample.with_(np.asarray(image), boxes), self.min_visible)

    def _offset(self, side: int, scale: float, rng: np.random.Generator) -> float:
        free = side - scale * side
        return rng.uniform(min(free, 0.0), max(free, 0.0)) + rng.uniform(-self.translate, self.translate) * side


def visible(sample: Sample, min_visible: float) -> Sample:
    """Boxes cut at the image's border; those of which a smaller part of the area is left are dropped."""
    height, width = sample.hw
    boxes = sample.boxes_G4
    clipped = np.clip(boxes, 0.0, np.array([width, height, width, height], dtype=np.float64))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left_over = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    return sample.with_(sample.image, clipped).keep(left_over >= min_visible * np.maximum(area, 1e-12))


class RandomChannelGain:
    """Change each channel's contrast and brightness, as `value * (1 + gain) + shift` on normalized values.

    Args:
        gain: the factor is uniform in [1 - gain, 1 + gain], per channel.
        shift: added, in units of `std` (0.2 of the usual std is about 11 of 255 levels), uniform in [-shift, shift].
        mean, std: what "normalized" means, RGB in 0-255.
    """

    fixed = False

    def __init__(
        self,
        gain: float = 0.15,
        shift: float = 0.2,
        mean: Sequence[float] = PIXEL_MEAN,
        std: Sequence[float] = PIXEL_STD,
    ) -> None:
        self.gain, self.shift = gain, shift
        self.mean_31 = np.array(mean, dtype=np.float64)[:, None]
        self.std_31 = np.array(std, dtype=np.float64)[:, None]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample with other levels; the boxes stay."""
        factor = rng.uniform(1 - self.gain, 1 + self.gain, size=(3, 1))
        shift = rng.uniform(-self.shift, self.shift, size=(3, 1)) * self.std_31
        levels = (np.arange(256)[None] - self.mean_31) * factor + self.mean_31 + shift
        table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        image = Image.fromarray(sample.image).point(table.ravel().tolist())
        return sample.with_(np.asarray(image))
