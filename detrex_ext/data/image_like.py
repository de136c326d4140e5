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


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of a video.

    Attributes:
        image: as ``Predictor.predict`` takes one.
        number: from 0.
        time: in seconds from the first.
    """

    image: str | os.PathLike | Image.Image | np.ndarray
    number: int
    time: float


ImageLike = str | os.PathLike | Image.Image | np.ndarray | Frame


def as_rgb(image: ImageLike) -> np.ndarray:
    """(H, W, 3) uint8 RGB of any image that ``Predictor.predict`` takes.

    Raises:
        UserError: a file that cannot be read. TypeError: no image at all.
    """
    image = image.image if isinstance(image, Frame) else image
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


@dataclass(eq=False)
class Examined:
    """An image that ``Predictor.examine`` has seen.

    Attributes:
        rgb: (H, W, 3) uint8, None where it could not be read.
        instances: what was found on it, None where ``error`` says why it could not be read.
        nbytes: memory of the pixels.
        frame: of a video, where it is one.
        of: the image that it is a slice of, and its ``place`` (x0, y0, x1, y1) there.
        input: of the model, as long as the model has not seen it.
    """

    rgb: np.ndarray | None = None
    instances: Instances | None = None
    error: Exception | None = None
    nbytes: int = 0
    frame: Frame | None = None
    of: Examined | None = None
    place: tuple[int, int, int, int] | None = None
    input: dict[str, Any] | None = None

    @property
    def kind(self) -> Hashable:
        """Its size in the model."""
        return tuple(self.input["image"].shape)

    @property
    def done(self) -> bool:
        """Whether the model has seen it, or will not."""
        return self.input is None

    def finish(self, found: Instances) -> None:
        """Takes what was found on it."""
        of_video = self.frame is not None
        self.instances = found.of_frame(self.frame.number, self.frame.time) if of_video else found
        self.input = None
