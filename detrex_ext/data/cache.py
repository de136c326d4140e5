"""Decoded pictures kept in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detrex_ext.data.sample import Sample

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 4 * 1024**3


class SampleCache:
    """Keeps samples by index until `limit` bytes of pixels are held; later ones are made afresh each time.

    Args:
        limit: bytes, per process.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit, self.used = limit, 0
        self._samples: dict[int, Sample] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, index: int, make: Callable[[], Sample]) -> Sample:
        """The sample of `index`, made by `make` unless held. Read-only: it is shared between calls."""
        sample = self._samples.get(index)
        if sample is not None:
            return sample
        sample = make()
        size = sample.image.nbytes
        if self.used + size <= self.limit:
            self._samples[index] = sample
            self.used += size
        elif not self._full:
            self._full = True
            logger.warning("picture cache is full: %d pictures, %d MiB", len(self), self.used // 2**20)
        return sample
