"""Loaders for training and evaluation."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from detrex_ext.data.cache import SampleCache
from detrex_ext.data.gate import Gatekeeper
from detrex_ext.data.mapper import DetrMapper, MappedDataset
from detrex_ext.data.records import as_dataset, sizes_of
from detrex_ext.data.samplers import TrainSampler, aspect_groups, shard
from detrex_ext.data.workers import end_with_trainer, worker_seed
from detrex_ext.runtime import comm, machine

logger = logging.getLogger(__name__)

# How many other images are tried for one that cannot be read, when a budget allows skipping at all.
_REPLACEMENTS = 16


class TrainLoader:
    """An endless iterator over this rank's batches, each a list of sample dicts.

    What it gives at step i is a function of (seed, i), the progress then, and the number of ranks alone: not of
    workers, nor of where the run was interrupted.
    """

    def __init__(
        self,
        samples: MappedDataset,
        sampler: TrainSampler,
        max_unreadable: int,
        pin_memory: bool | None = None,
        **workers: Any,
    ) -> None:
        self._pin = pin_memory
        self.samples, self.sampler, self.gate = samples, sampler, Gatekeeper(max_unreadable)
        self.dataset = samples.dataset
        self.batch_size, self.total_batch_size = sampler.per_rank, sampler.batch_size
        self._current: weakref.ref | None = None
        self._loader = _loader("train", samples, sampler, pin_memory=bool(pin_memory), **workers)

    def set_start(self, iteration: int) -> None:
        """Make the next `iter()` begin with the batch of training step `iteration`."""
        self.sampler.set_start(iteration)
        self._loader.generator.manual_seed(worker_seed(self.samples.seed, iteration))

    def set_device(self, device: torch.device) -> None:
        """Where the batches go: page-locked memory for a GPU, unless the loader was told what to do."""
        if self._pin is None:
            self._loader.pin_memory = device.type == "cuda"

    def set_progress(self, progress: Callable[[int], float]) -> None:
        """Batches not yet drawn go by this progress of the training, 0 to 1, at their step."""
        self.sampler.progress = progress

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
        if self._loader.num_workers:
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
        batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
        self._loader = _loader("test", samples, batches, num_workers=num_workers)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self._loader:
            yield self.gate(batch)


def build_train_loader(
    dataset: Sequence[dict],
    mapper: DetrMapper,
    total_batch_size: int = 16,
    num_workers: int = 4,
    aspect_ratio_grouping: bool = True,
    max_unreadable: int = 0,
    cache: bool = False,
    seed: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool | None = None,
) -> TrainLoader:
    """The training loader of this rank.

    Args:
        dataset: what to train on: a `CocoDataset`, a `RecordDataset`, any sequence of detectron2's dicts.
        mapper: record to sample.
        total_batch_size: images per step over all ranks.
        num_workers: loader processes; 0 loads in the trainer's process. Batches do not depend on it.
        aspect_ratio_grouping: wide and high images do not share a batch (less padding).
        max_unreadable: so many distinct images may be skipped, each named in the log and replaced by others.
        cache: keep decoded images (after the fixed transforms at the pipeline's beginning) in memory.
        seed: order and augmentation. A negative one ("not fixed") counts as 0: a resumed run could not go on with an
            order that chance had chosen.
        prefetch_factor: batches each worker prepares ahead.
        pin_memory: page-locked tensors, which are copied to a GPU while it works; None = where one trains.

    Raises:
        UserError: the data set is empty or has a record that is not understood, or the batch does not divide over the
            ranks.
    """
    seed, dataset = max(seed, 0), as_dataset(dataset)
    groups = aspect_groups(sizes_of(dataset)) if aspect_ratio_grouping else None
    sampler = TrainSampler(len(dataset), total_batch_size, seed, groups, comm.get_rank(), comm.get_world_size())
    replacements, held = _REPLACEMENTS if max_unreadable else 0, SampleCache() if cache else None
    samples = MappedDataset(dataset, mapper, seed, replacements, held)
    workers = {"num_workers": num_workers, "prefetch_factor": prefetch_factor if num_workers else None}
    return TrainLoader(samples, sampler, max_unreadable, pin_memory=pin_memory, **workers)


def build_test_loader(
    dataset: Sequence[dict], mapper: DetrMapper, num_workers: int = 4, batch_size: int = 1, cache: bool = False
) -> TestLoader:
    """The evaluation loader of this rank: every image once over all ranks, contiguous parts in order.

    Args:
        dataset: as in training.
        mapper: one whose `is_train` is False.
        num_workers: loader processes.
        batch_size: images per batch of this rank.
        cache: keep decoded images in memory between evaluations (num_workers=0).
    """
    if batch_size < 1:
        raise ValueError(f"build_test_loader: batch_size is {batch_size}; expected at least 1")
    dataset = as_dataset(dataset)
    keys = [(0, index) for index in shard(len(dataset), comm.get_rank(), comm.get_world_size())]
    samples = MappedDataset(dataset, mapper, cache=SampleCache() if cache else None)
    return TestLoader(samples, keys, batch_size, num_workers)


def _loader(split: str, samples: MappedDataset, batches: Iterable[list], **workers: Any) -> DataLoader:
    processes, cores = workers["num_workers"] * comm.get_local_size(), machine.cores()
    if processes > cores:
        logger.warning("data: %d loader processes on %d core%s wait for each other; dataloader.%s.num_workers=%d fits",
                       processes, cores, "s" * (cores > 1), split, cores // comm.get_local_size())  # fmt: skip
    workers.update(generator=torch.Generator().manual_seed(worker_seed(samples.seed)), worker_init_fn=end_with_trainer)
    # A batch is the list of its samples: nothing is collated.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # it is told above, with what to do
        return DataLoader(samples, batch_sampler=batches, collate_fn=list, **workers)
