"""One picture with its boxes, on its way through the transforms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


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
        """(height, width) of the picture as it is now."""
        return self.image.shape[0], self.image.shape[1]

    def with_(self, image: np.ndarray, boxes_G4: np.ndarray | None = None) -> Sample:
        """The same objects with another picture and, if given, other boxes."""
        return replace(self, image=image, boxes_G4=self.boxes_G4 if boxes_G4 is None else boxes_G4)

    def keep(self, mask_G: np.ndarray) -> Sample:
        """Only the objects where `mask_G` is true."""
        return replace(self, boxes_G4=self.boxes_G4[mask_G], classes_G=self.classes_G[mask_G])

    def clipped(self, min_side: float = 1e-5) -> Sample:
        """Boxes cut at the picture's border; those with a side of `min_side` or less are dropped."""
        height, width = self.hw
        boxes = np.clip(self.boxes_G4, 0.0, np.array([width, height, width, height], dtype=np.float64))
        sides = boxes[:, 2:] - boxes[:, :2]
        return replace(self, boxes_G4=boxes).keep((sides > min_side).all(axis=1))
