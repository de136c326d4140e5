"""Images as programs hold them."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

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
