"""Random color of photographs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

from detrex_ext.data.transforms import Sample


class RandomColor:
    """Change brightness, contrast, saturation and hue, in a random order.

    Args:
        brightness, contrast, saturation: the factor is uniform in [1 - x, 1 + x]; 0 leaves it as it is.
        hue: shift of the hue, as a share of the circle, uniform in [-hue, hue].
    """

    fixed = False

    def __init__(
        self, brightness: float = 0.3, contrast: float = 0.3, saturation: float = 0.3, hue: float = 0.02
    ) -> None:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        self.changes = list(zip(enhancers, (brightness, contrast, saturation), strict=True))
        self.hue = hue

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample in other colors; the boxes stay."""
        image = Image.fromarray(sample.image)
        for number in rng.permutation(len(self.changes) + 1).tolist():
            if number < len(self.changes):
                enhancer, most = self.changes[number]
                image = enhancer(image).enhance(rng.uniform(1 - most, 1 + most))
            else:
                image = self._turned(image, rng.uniform(-self.hue, self.hue))
        return sample.with_(np.asarray(image))

    @staticmethod
    def _turned(image: Image.Image, shift: float) -> Image.Image:
        turn = round(256 * shift) % 256
        if not turn:
            return image
        hue, saturation, value = image.convert("HSV").split()
        hue = hue.point([(level + turn) % 256 for level in range(256)])
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
