"""Loaders for training and evaluation."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from detrex_ext.data.cache import SampleCache
from detrex_ext.data.coco import CocoDataset
from detrex_ext.data.fetch import Gatekeeper, MappedDataset, as_list, start_worker
from detrex_ext.data.mapper import DetrMapper
from detrex_ext.data.samplers import TrainSampler, aspect_groups, shard

# How many other images are tried for one that cannot be read, when a budget allows skipping at all.
_REPLACEMENTS = 16


class TrainLoader:
    """An endless iterator over this rank's batches, each a list of sample dicts.

    What it gives at step i is a function of (seed, i) and the number of ranks alone: not of workers, nor of where the
    run was interrupted.
    """

    def __init__(
        self,
        samples: MappedDataset,
        sampler: TrainSampler,
        gate: Gatekeeper,
        num_workers: int,
        prefetch_factor: int,
        pin_memory: bool,
    ) -> None:
        self.samples, self.sampler, self.gate = samples, sampler, gate
        self.dataset = samples.dataset
        self.batch_size, self.total_batch_size = sampler.per_rank, sampler.batch_size
        self.num_workers = num_workers
        self._current: weakref.ref | None = None
        self._loader = DataLoader(
            samples,
            batch_sampler=sampler,
            collate_fn=as_list,
            num_workers=num_workers,
            worker_init_fn=start_worker,
            prefetch_factor=prefetch_factor if num_workers else None,
            pin_memory=pin_memory,
            # A generator of its own: torch draws a base seed per iterator, which must not move the trainer's stream.
            generator=torch.Generator().manual_seed(samples.seed),
        )

    def set_start(self, iteration: int) -> None:
        """Make the next `iter()` begin with the batch of training step `iteration`."""
        self.sampler.set_start(iteration)

    def __iter__(self) -> Iterator[list[dict]]:
        stream = self._stream()
        self._current = weakref.ref(stream)
        return stream

    def close(self) -> None:
        """Stop the workers of the last `iter()`; else they end with the iterator (slowly, if it is cyclic garbage)."""
        stream = self._current() if self._current else None
        if stream is not None:
            stream.close()

    def _stream(self) -> Iterator[list[dict]]:
        if self.num_workers:
            self.samples.fill_cache()
        # The worker pool hangs on this frame alone: it ends at once when the frame does, by `close` or an error.
        for batch in self._loader:
            yield self.gate(batch)


class TestLoader:
    """This rank's contiguous part of the data set, once, in order; batches are lists of sample dicts."""

    __test__ = False  # no test class, whatever its name begins with

    def __init__(self, samples: MappedDataset, keys: list[tuple[int, int]], batch_size: int, num_workers: int) -> None:
        self.samples, self.dataset, self.batch_size = samples, samples.dataset, batch_size
        self.gate = Gatekeeper(0, key=None)
        self._loader = DataLoader(
            samples,
            batch_sampler=[keys[i : i + batch_size] for i in range(0, len(keys), batch_size)],
            collate_fn=as_list,
            num_workers=num_workers,
            worker_init_fn=start_worker,
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self._loader:
            yield self.gate(batch)


def build_train_loader(
    dataset: CocoDataset,
    mapper: DetrMapper,
    total_batch_size: int = 16,
    num_workers: int = 4,
    aspect_ratio_grouping: bool = True,
    max_unreadable: int = 0,
    cache: bool = False,
    seed: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> TrainLoader:
    """The training loader of this rank.

    Args:
        dataset: what to train on.
        mapper: record to sample.
        total_batch_size: images per step over all ranks.
        num_workers: loader processes; 0 loads in the trainer's process. Batches do not depend on it.
        aspect_ratio_grouping: wide and high images do not share a batch (less padding).
        max_unreadable: so many distinct pictures may be skipped, each named in the log and replaced by others.
        cache: keep decoded pictures (after the fixed transforms at the pipeline's beginning) in memory.
        seed: order and augmentation. A negative one ("not fixed") counts as 0: a resumed run could not go on with an
            order that chance had chosen.
        prefetch_factor: batches each worker prepares ahead.
        pin_memory: page-locked tensors, for CUDA.

    Raises:
        UserError: the data set is empty, or the batch does not divide over the ranks.
    """
    from detrex_ext.runtime import comm

    seed = max(seed, 0)
    groups = aspect_groups(dataset.sizes_N2) if aspect_ratio_grouping else None
    sampler = TrainSampler(
        len(dataset), total_batch_size, seed, groups, rank=comm.get_rank(), world=comm.get_world_size()
    )
    samples = MappedDataset(
        dataset,
        mapper,
        seed=seed,
        replacements=_REPLACEMENTS if max_unreadable else 0,
        cache=SampleCache() if cache else None,
    )
    return TrainLoader(samples, sampler, Gatekeeper(max_unreadable), num_workers, prefetch_factor, pin_memory)


def build_test_loader(
    dataset: CocoDataset,
    mapper: DetrMapper,
    num_workers: int = 4,
    batch_size: int = 1,
    cache: bool = False,
) -> TestLoader:
    """The evaluation loader of this rank: every image once over all ranks, contiguous parts in order.

    Args:
        dataset, mapper: as in training; `mapper.is_train` is False.
        num_workers: loader processes.
        batch_size: images per batch of this rank.
        cache: keep decoded pictures in memory between evaluations (num_workers=0).
    """
    from detrex_ext.runtime import comm

    if batch_size < 1:
        raise ValueError(f"build_test_loader: batch_size is {batch_size}; expected at least 1")
    keys = [(0, index) for index in shard(len(dataset), comm.get_rank(), comm.get_world_size())]
    samples = MappedDataset(dataset, mapper, cache=SampleCache() if cache else None)
    return TestLoader(samples, keys, batch_size, num_workers)
