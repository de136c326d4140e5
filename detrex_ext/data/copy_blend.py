"""Objects of another image, blended into a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detrex_ext.data.mixing import Draw, Mixing, relative_scale
from detrex_ext.data.transforms import Sample, resize_to


class CopyBlend(Mixing):
    """Objects of another image shine through at places of their own, with a border that fades (DEIMv2, 2509.20787).

    Args:
        objects: that are copied at most; their number is drawn.
        share: (low, high) of a copied object in the blend, uniform; the image has the rest.
        margin: (low, high) of the border around an object's box, as a share of the box's sides.
        scale: (low, high) of an object, uniform in the logarithm; at 1 it is as large as where the other image had the
            area of this one.
        min_area: objects of a smaller area, in pixels where they are copied to, are left.
    """

    def __init__(
        self,
        prob: float = 0.5,
        objects: int = 3,
        share: Sequence[float] = (0.45, 0.55),
        margin: Sequence[float] = (0.1, 0.25),
        scale: Sequence[float] = (0.8, 1.25),
        min_area: float = 100.0,
        since: float = 0.0,
        until: float = 1.0,
    ) -> None:
        super().__init__(prob, since, until)
        self.objects, self.share, self.margin, self.scale = objects, share, margin, scale
        self.min_area = min_area

    def most_added(self, most: int) -> int:
        """Objects that a sample may gain where an image has `most`."""
        return min(self.objects, most)

    def mix(self, sample: Sample, rng: np.random.Generator, other: Draw) -> Sample:
        """The sample with objects of another; itself where there are none that fit."""
        source = other().clipped()
        number = int(rng.integers(1, self.objects + 1))
        image, boxes, classes = sample.image.copy(order="C"), [], []
        for index in rng.permutation(len(source.boxes_G4))[:number].tolist():
            scale = relative_scale(self.scale, source, sample, rng)
            margin, share = rng.uniform(*self.margin), rng.uniform(*self.share)
            part = _cut(source, index, margin, scale)
            left, top, right, bottom = part.boxes_G4[0]
            free = np.array([sample.hw[1] - (right - left), sample.hw[0] - (bottom - top)])
            x, y = (int(rng.integers(0, max(int(side), 0) + 1)) for side in free)
            if min(free) < 0 or (right - left) * (bottom - top) < self.min_area:
                continue
            shift = np.array([x - math.floor(left), y - math.floor(top)])
            _blend(image, part, shift, share)
            boxes.append(part.boxes_G4[0] + np.tile(shift, 2))
            classes.append(part.classes_G[0])
        if not boxes:
            return sample
        boxes_G4 = np.concatenate([sample.boxes_G4, np.array(boxes)])
        return Sample(image, boxes_G4, np.concatenate([sample.classes_G, np.array(classes, dtype=np.int64)])).clipped()


def _cut(sample: Sample, index: int, margin: float, scale: float) -> Sample:
    """One object with the border around it as far as the image goes, at a scale."""
    box, (height, width) = sample.boxes_G4[index], sample.hw
    border = margin * (box[2:] - box[:2])
    left, top = (max(math.floor(v), 0) for v in box[:2] - border)
    right, bottom = (min(math.ceil(v), side) for v, side in zip(box[2:] + border, (width, height), strict=True))
    part = Sample(sample.image[top:bottom, left:right], (box - np.array([left, top, left, top]))[None],
                  sample.classes_G[index : index + 1])  # fmt: skip
    return resize_to(part, *(max(round(scale * side), 1) for side in part.hw))


def _blend(image: np.ndarray, part: Sample, shift: np.ndarray, share: float) -> None:
    """Lays `part` over an image, moved by (x, y): with `share` inside its box, with nothing at its own border."""
    box, (left, top) = part.boxes_G4[0], shift.tolist()
    weights = [_ramp(box[axis], box[axis + 2], side) for axis, side in ((1, part.hw[0]), (0, part.hw[1]))]
    rows, columns = (slice(max(at, 0), min(at + side, full)) for at, side, full in
                     zip((top, left), part.hw, image.shape, strict=False))  # fmt: skip
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    weight = share * np.minimum(weights[0][:, None], weights[1][None])[inner][..., None]
    under = image[rows, columns]
    image[rows, columns] = np.rint(under + weight * (part.image[inner].astype(np.float64) - under)).astype(np.uint8)


def _ramp(low: float, high: float, side: int) -> np.ndarray:
    """(side,) 1 at the pixels between `low` and `high`, falling to 0 towards both ends."""
    center = np.arange(side) + 0.5
    before, after = center / max(low, 0.5), (side - center) / max(side - high, 0.5)
    return np.clip(np.minimum(before, after), 0.0, 1.0)
