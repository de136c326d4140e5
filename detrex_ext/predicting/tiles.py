"""Large images with small objects: overlapping slices, the whole image as one more, and their objects as one answer.

Shape legend: N objects of all slices, C of them cut by a slice's edge, W whole ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..data.image_like import Examined
from ..data.transforms import Resize, ResizeShortestEdge
from ..runtime import Boxes
from .found import Found

AUTO = "auto"
_AT_EDGE = 0.02  # of a slice's side; a box that ends so near to where the slice was cut is of an object that may go on
_COVERED = 0.6  # of a cut box's area, by a whole one
AS_GOOD = 0.5  # of its score: a whole box that is less sure does not replace a cut one
_ROWS = 1024  # of a matrix at once

Place = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut, and how its slices' objects become one answer.

    Args:
        height, width: of a slice, in pixels of the image.
        overlap: of neighbors, as a share of a slice's side. Objects up to this size are whole in some slice.
        iou: of two boxes of one class above which the one with the lower score is dropped.
    """

    height: int
    width: int
    overlap: float = 0.25
    iou: float = 0.5

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 16 or not 0 <= self.overlap <= 0.9 or not 0 < self.iou <= 1:
            raise ValueError(f"{self}: expected sides from 16 pixels on, overlap in [0, 0.9] and iou in (0, 1]")

    @classmethod
    def of(cls, given: Tile, transforms: Sequence[Any]) -> Tiling:
        """Slices of a size in pixels, or (``"auto"``) of that for which the model's images are resized.

        Raises:
            ValueError: it is none, or ``"auto"`` where nothing resizes images.
        """
        if isinstance(given, Tiling):
            return given
        if isinstance(given, int) and not isinstance(given, bool):
            return cls(given, given)
        if given != AUTO:
            raise ValueError(f"tile={given!r}: expected a side in pixels, '{AUTO}' or a Tiling")
        for transform in transforms:
            if isinstance(transform, ResizeShortestEdge):
                return cls(max(transform.lengths), max(transform.lengths))
            if isinstance(transform, Resize):
                return cls(*transform.shape)
        raise ValueError(f"tile='{AUTO}': nothing resizes images for this model, so name a side in pixels")

    def places(self, height: int, width: int) -> list[Place]:
        """(x0, y0, x1, y1) of each slice, row by row, then the whole image; of one that fits a slice, itself alone."""
        tops, lefts = self._starts(height, self.height), self._starts(width, self.width)
        whole = (0, 0, width, height)
        cut = [(x, y, min(x + self.width, width), min(y + self.height, height)) for y in tops for x in lefts]
        return [whole] if len(cut) == 1 else [*cut, whole]

    def _starts(self, length: int, side: int) -> list[int]:
        """Evenly spread, so that the last slice ends with the image."""
        if length <= side:
            return [0]
        step = max(1.0, side * (1 - self.overlap))
        count = 1 + -int(-(length - side) // step)
        return [round(i * (length - side) / (count - 1)) for i in range(count)]

    def merged(self, found: Sequence[Found], places: Sequence[Place]) -> Found:
        """One answer of the answers to slices, best first; the last place is the whole image."""
        if len(found) == 1:
            return found[0]
        size = found[-1].image_size
        shifts = [torch.tensor([x, y, x, y]) for x, y, _, _ in places]
        boxes_N4 = torch.cat([one.pred_boxes.tensor + by for one, by in zip(found, shifts, strict=True)])
        scores_N, classes_N = (torch.cat([one.get(key) for one in found]) for key in ("scores", "pred_classes"))
        cut_N = torch.cat([_is_cut(one.pred_boxes.tensor, p, size) for one, p in zip(found, places, strict=True)])
        left_N = (~_replaced(boxes_N4, scores_N, classes_N, cut_N)).nonzero().flatten()
        kept = left_N[batched_nms(boxes_N4[left_N], scores_N[left_N], classes_N[left_N], self.iou)]
        return found[-1].with_objects(
            pred_boxes=Boxes(boxes_N4[kept]), scores=scores_N[kept], pred_classes=classes_N[kept]
        )


Tile = int | str | Tiling | None
"""What ``Predictor.predict`` takes: a side in pixels, "auto", slices, or none."""


def _is_cut(boxes_N4: Tensor, place: Place, image_hw: tuple[int, int]) -> Tensor:
    """Which boxes end where the slice does and the image goes on; boxes in pixels of the slice."""
    x0, y0, x1, y1 = place
    height, width = image_hw
    near = torch.tensor([_AT_EDGE * (x1 - x0), _AT_EDGE * (y1 - y0)] * 2)
    far_N4 = torch.cat([boxes_N4[:, :2], torch.tensor([x1 - x0, y1 - y0]) - boxes_N4[:, 2:]], 1)
    inner = torch.tensor([x0 > 0, y0 > 0, x1 < width, y1 < height])
    return ((far_N4 <= near) & inner).any(1)


def _replaced(boxes_N4: Tensor, scores_N: Tensor, classes_N: Tensor, cut_N: Tensor) -> Tensor:
    """Which cut boxes lie for the most part in a whole one of their class that is about as sure."""
    replaced_N = torch.zeros_like(cut_N)
    for k in classes_N[cut_N].unique():
        of_C = (cut_N & (classes_N == k)).nonzero().flatten()
        of_W = (~cut_N & (classes_N == k)).nonzero().flatten()
        for some in of_C.split(_ROWS):
            low = torch.maximum(boxes_N4[some, None, :2], boxes_N4[of_W, :2])
            high = torch.minimum(boxes_N4[some, None, 2:], boxes_N4[of_W, 2:])
            sides = boxes_N4[some, 2:] - boxes_N4[some, :2]
            share = (high - low).clamp(min=0).prod(-1) / sides.prod(-1)[:, None]
            good = scores_N[of_W] >= AS_GOOD * scores_N[some, None]
            replaced_N[some] = ((share >= _COVERED) & good).any(1)
    return replaced_N


def slices(images: Iterable[Examined], tiling: Tiling) -> Iterator[tuple[Examined, Place | None]]:
    """Each image with each of its places; one that could not be read once, with None."""
    for image in images:
        places = [None] if image.error is not None else tiling.places(*image.rgb.shape[:2])
        for place in places:
            yield image, place


def joined(parts: Iterable[Examined], tiling: Tiling, least: Tensor, keep: bool) -> Iterator[Examined]:
    """The images again, of what was seen of their slices, in order.

    Args:
        parts: each with the image it is ``of``, and its ``place`` there.
        tiling: that made them.
        least: score of what is told, of each class, or (1,) of all.
        keep: the pixels of the images.
    """
    for image, of_it in groupby(parts, key=lambda part: part.of):
        seen = list(of_it)
        image.error = next((part.error for part in seen if part.error is not None), None)
        if image.error is None:
            found = tiling.merged([part.instances for part in seen], [part.place for part in seen])
            image.finish(found.above(least))
        if not keep or image.error is not None:
            image.rgb = None
        yield image
