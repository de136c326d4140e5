"""Images read, seen by a model in batches, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from ..data.ahead import ahead, together
from ..data.image_like import Examined, Frame, ImageLike, as_rgb
from .found import Found
from .tiles import AS_GOOD, Place, Tiling, joined, slices

_BATCHES, _BYTES = 4, 2**28  # of images that wait until there are enough of their size


class Examining:
    """How images go through a model: some ahead, those of one size together, large ones in slices.

    Args:
        as_input: an input of the model, of the pixels of an image.
        run: answers to inputs, with at least the given scores.
        threads: that read and prepare.
        batch_size: inputs of one size that go together.
        keep: the pixels of images.
    """

    def __init__(
        self,
        as_input: Callable[[np.ndarray], dict[str, Any]],
        run: Callable[[list[dict], Tensor], list[Found]],
        threads: int,
        batch_size: int,
        keep: bool,
    ) -> None:
        self.as_input, self.run, self.threads = as_input, run, threads
        self.batch_size, self.keep = batch_size, keep

    def whole(self, images: Iterable[ImageLike], least: Tensor) -> Iterator[Examined]:
        """Each image, found as it is, with at least these scores."""
        return self._seen(ahead(_given(images), self._read_whole, self._most, self.threads), least)

    def in_slices(self, images: Iterable[ImageLike], least: Tensor, tiling: Tiling) -> Iterator[Examined]:
        """Each image, found by its slices and itself; how many images are read ahead does not go by the batch."""
        read = ahead(_given(images), _read, self.threads, self.threads)
        parts = ahead(slices(read, tiling), self._part, self._most, self.threads)
        # what is half as sure may replace a cut box
        return joined(self._seen(parts, least * AS_GOOD), tiling, least, self.keep)

    @property
    def _most(self) -> int:
        return max(self.threads, self.batch_size)

    def _read_whole(self, image: ImageLike | Exception) -> Examined:
        seen = _read(image)
        if seen.error is None:
            self._prepare(seen, seen.rgb)
        if not self.keep or seen.error is not None:
            seen.rgb = None
        seen.nbytes += 0 if seen.rgb is None else seen.rgb.nbytes
        return seen

    def _part(self, of_image: tuple[Examined, Place | None]) -> Examined:
        image, place = of_image
        part = Examined(of=image, place=place, error=image.error)
        if place is not None:
            x0, y0, x1, y1 = place
            self._prepare(part, image.rgb[y0:y1, x0:x1])
        return part

    def _prepare(self, seen: Examined, rgb: np.ndarray) -> None:
        try:
            seen.input = self.as_input(rgb)
            seen.nbytes = seen.input["image"].nbytes
        except Exception as error:
            seen.error = error

    def _seen(self, prepared: Iterable[Examined], least: Tensor) -> Iterator[Examined]:
        def work(batch: list[Examined]) -> None:
            for seen, found in zip(batch, self.run([seen.input for seen in batch], least), strict=True):
                seen.finish(found)

        return together(prepared, self.batch_size, work, _BATCHES * self.batch_size, _BYTES)


def _given(images: Iterable[ImageLike]) -> Iterator[ImageLike | Exception]:
    """The images; an error in getting one comes in its turn, after what was found before, and is the last."""
    try:
        yield from images
    except Exception as error:
        yield error


def _read(image: ImageLike | Exception) -> Examined:
    if isinstance(image, Exception):
        return Examined(error=image)
    frame = image if isinstance(image, Frame) else None
    try:
        return Examined(as_rgb(image), frame=frame)
    except Exception as error:
        return Examined(error=error, frame=frame)
