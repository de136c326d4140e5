"""Prepared samples kept in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detrex_ext.data.transforms import Sample

logger = logging.getLogger(__name__)


class SampleCache:
    """Keeps samples by index until `limit` bytes of pixels are held; later ones are made afresh each time.

    Args:
        limit: bytes, per process.
    """

    def __init__(self, limit: int = 4 * 1024**3) -> None:
        self.limit, self.used = limit, 0
        self._samples: dict[int, Sample] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, index: int, make: Callable[[], Sample]) -> Sample:
        """The sample of `index`, made by `make` unless held. Read-only: it is shared between calls."""
        if index in self._samples:
            return self._samples[index]
        sample = make()
        if self.used + sample.image.nbytes <= self.limit:
            self._samples[index] = sample
            self.used += sample.image.nbytes
        elif not self._full:
            self._full = True
            logger.warning("image cache is full: %d images, %d MiB", len(self), self.used // 2**20)
        return sample
