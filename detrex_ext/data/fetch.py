"""What a loader worker does: fetch samples by key, and report pictures it could not read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from detrex_ext.data.cache import SampleCache
from detrex_ext.data.coco import CocoDataset
from detrex_ext.data.mapper import DetrMapper
from detrex_ext.data.read import UnreadableImage
from detrex_ext.data.sample import Sample
from detrex_ext.errors import UserError

logger = logging.getLogger(__name__)


class Fetched(NamedTuple):
    """One sample, and the pictures given up on the way to it as (file, reason); no sample if all failed."""

    sample: dict | None
    unreadable: tuple[tuple[str, str], ...] = ()


class MappedDataset(torch.utils.data.Dataset):
    """`dataset[(epoch, index)]` is the sample of that image with the augmentation of that epoch.

    Args:
        dataset, mapper: where records come from and what is done to them.
        seed: randomness is `default_rng((seed, epoch, index))`.
        replacements: how many other images may be tried in place of one that cannot be read.
        cache: keeps what the mapper prepared; None: nothing is kept.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        mapper: DetrMapper,
        seed: int = 0,
        replacements: int = 0,
        cache: SampleCache | None = None,
    ) -> None:
        self.dataset, self.mapper, self.seed = dataset, mapper, seed
        self.replacements, self.cache = replacements, cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Fetched:
        epoch, index = key
        failed: list[tuple[str, str]] = []
        # The stream of the substitutes has one word more than any sample's, so that samples keep theirs.
        substitute = None
        for _ in range(1 + self.replacements):
            rng = np.random.default_rng((self.seed, epoch, index))
            try:
                record = self.dataset[index]
                return Fetched(self.mapper.finish(record, self.prepared(index, record), rng), tuple(failed))
            except UnreadableImage as error:
                # Exceptions lose their form on the way out of a worker; the loader raises it in the main process.
                failed.append((error.path, error.reason))
            substitute = substitute or np.random.default_rng((self.seed, epoch, index, 1))
            index = int(substitute.integers(len(self.dataset)))
        return Fetched(None, tuple(failed))

    def prepared(self, index: int, record: dict) -> Sample:
        """The picture read and resized, from the cache if there is one."""
        if self.cache is None:
            return self.mapper.prepare(record)
        return self.cache.get(index, lambda: self.mapper.prepare(record))

    def fill_cache(self) -> None:
        """Read every picture now, so that worker processes started afterwards share one copy."""
        if self.cache is None or len(self.cache):
            return

        def read(index: int) -> None:
            try:
                self.prepared(index, self.dataset[index])
            except UnreadableImage:
                pass  # reported when a batch asks for it

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(read, range(len(self.dataset))))


class Gatekeeper:
    """Unpacks fetched batches in the main process and counts distinct unreadable pictures against a budget.

    Args:
        budget: so many distinct pictures may be skipped (per process).
        key: the configuration key to name in the message; None where there is no budget to raise.
    """

    def __init__(self, budget: int = 0, key: str | None = "dataloader.train.max_unreadable") -> None:
        self.budget, self.key = budget, key
        self.skipped: dict[str, str] = {}

    def __call__(self, batch: Sequence[Fetched]) -> list[dict]:
        """The samples of a batch.

        Raises:
            UserError: more than `budget` distinct pictures could not be read.
        """
        for path, reason in (failure for fetched in batch for failure in fetched.unreadable):
            if path in self.skipped:
                continue
            self.skipped[path] = reason
            if len(self.skipped) > self.budget:
                raise UserError(self._message(path, reason))
            logger.warning(
                "unreadable image %d of at most %d is skipped: %s: %s", len(self.skipped), self.budget, path, reason
            )
        missing = [f.unreadable[0] for f in batch if f.sample is None]
        if missing:
            raise UserError(self._message(*missing[0]))
        return [f.sample for f in batch]

    def _message(self, path: str, reason: str) -> str:
        lines = [f"image cannot be used: {path}", f"  {reason}"]
        if self.budget:
            lines.append(f"  {len(self.skipped)} such images found, {self.key} allows {self.budget}: "
                         + ", ".join(list(self.skipped)[:5]))  # fmt: skip
        lines.append("  replace the file or remove it from the JSON"
                     + (f", or set {self.key}=N to skip up to N images" if self.key else ""))  # fmt: skip
        return "\n".join(lines)


def as_list(batch: list) -> list:
    """Collate nothing: a batch is the list of its samples."""
    return batch


def start_worker(worker_id: int) -> None:
    """One thread per worker: they run beside each other and beside the trainer."""
    torch.set_num_threads(1)
