"""Images as programs hold them."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..runtime import Instances
from .read import read_image, rgb_of

ImageLike = str | os.PathLike | Image.Image | np.ndarray


def as_rgb(image: ImageLike) -> np.ndarray:
    """(H, W, 3) uint8 RGB of any image that ``Predictor.predict`` takes.

    Raises:
        UserError: a file that cannot be read. TypeError: no image at all.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return rgb_of(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size:
        channels = image.reshape(*image.shape[:2], -1)
        if channels.shape[2] in (1, 3, 4):
            return np.repeat(channels, 3, axis=2) if channels.shape[2] == 1 else channels[:, :, :3].copy()
    found = f"{image.dtype} array {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise TypeError(f"an image is a path, a Pillow image or an (H, W, 3) uint8 RGB array; found {found}")


@dataclass
class Examined:
    """An image that ``Predictor.examine`` has seen.

    Attributes:
        rgb: (H, W, 3) uint8, None where it could not be read.
        instances: what was found on it, None where ``error`` says why it could not be read.
        nbytes: memory of the pixels.
    """

    rgb: np.ndarray | None = None
    instances: Instances | None = None
    error: Exception | None = None
    nbytes: int = 0
    _input: dict[str, Any] | None = None

    @property
    def kind(self) -> Hashable:
        """Its size in the model."""
        return tuple(self._input["image"].shape)

    @property
    def done(self) -> bool:
        """Whether the model has seen it, or will not."""
        return self._input is None
