"""Which images, in which order: pure functions of (seed, iteration), the same on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from detrex_ext.errors import UserError

# Separates the order of an epoch from the augmentation of its samples, which are seeded by (seed, epoch, index).
_ORDER_STREAM = 0x0D7A
Key = tuple[int, int] | tuple[int, int, float]
"""(epoch, index), and the progress of the training where something says it."""


def per_rank_batch(total: int, world: int, key: str = "dataloader.train.total_batch_size") -> int:
    """Images per rank and step.

    Raises:
        UserError: `total` is not a positive multiple of `world`.
    """
    if total < 1 or total % world:
        near = max(world, total - total % world)
        raise UserError(f"{key}={total} does not divide over {world} processes\n"
                        f"  use a multiple of {world}, for example {key}={near}")  # fmt: skip
    return total // world


class TrainSampler:
    """An endless stream of batches of (epoch, index) keys.

    Epoch e visits the images in an order drawn from (seed, e). Images go, in that order, to the open batch of their
    group; a batch is given out when it is full, whatever is open at the end of an epoch goes on into the next. The
    stream of global batches does not depend on the number of ranks or workers; rank r takes the r-th slice of each.

    Args:
        size: number of images.
        batch_size: images per step over all ranks.
        seed: not negative.
        groups_N: (N,) integers; a batch holds images of one group only. None: one group.
        rank, world: this process, number of processes.

    Attributes:
        progress: of the training when a step begins, 0 to 1; what it says when a batch is given out goes with the keys.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        groups_N: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if size < 1:
            raise UserError("the training set has no images")
        if seed < 0:
            raise ValueError(f"sampler seed is {seed}; it must not be negative")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.per_rank, self.rank = per_rank_batch(batch_size, world), rank
        groups = np.zeros(size, dtype=np.int64) if groups_N is None else np.asarray(groups_N)
        self.groups_N = np.unique(groups, return_inverse=True)[1]
        self.counts = np.bincount(self.groups_N)
        self.start = 0
        self.progress: Callable[[int], float] | None = None

    def set_start(self, iteration: int) -> None:
        """Begin the next iteration over this sampler with the batch of training step `iteration`."""
        self.start = int(iteration)

    def __iter__(self) -> Iterator[list[Key]]:
        mine = slice(self.rank * self.per_rank, (self.rank + 1) * self.per_rank)
        for step, batch in enumerate(self.global_batches(self.start), self.start):
            more = () if self.progress is None else (self.progress(step),)
            yield [(*key, *more) for key in batch[mine]]

    def global_batches(self, start: int = 0) -> Iterator[list[Key]]:
        """The stream over all ranks, from batch `start`; reaching it costs a few epochs' orders, not `start` steps."""
        epoch = self._epoch_of(start)
        pending = [self._left_over(epoch, group) for group in range(len(self.counts))]
        skip = start - self._batches_before(epoch)
        while True:
            order = self.order(epoch)
            for index, group in zip(order.tolist(), self.groups_N[order].tolist(), strict=True):
                pending[group].append((epoch, index))
                if len(pending[group]) == self.batch_size:
                    full, pending[group] = pending[group], []
                    if skip:
                        skip -= 1
                    else:
                        yield full
            epoch += 1

    def order(self, epoch: int) -> np.ndarray:
        """(N,) the order of the images in an epoch."""
        return np.random.default_rng((self.seed, epoch, 0, _ORDER_STREAM)).permutation(self.size)

    def _batches_before(self, epoch: int) -> int:
        """Batches complete when `epoch` begins."""
        return int((epoch * self.counts // self.batch_size).sum())

    def _epoch_of(self, batch: int) -> int:
        """The last epoch before whose beginning no more than `batch` batches are complete."""
        epoch = batch * self.batch_size // self.size
        while self._batches_before(epoch + 1) <= batch:
            epoch += 1
        return epoch

    def _left_over(self, epoch: int, group: int) -> list[Key]:
        """Keys of `group` in the open batch when `epoch` begins, oldest first."""
        wanted = int(epoch * self.counts[group] % self.batch_size)
        keys: list[Key] = []
        while len(keys) < wanted:
            epoch -= 1
            order = self.order(epoch)
            keys = [(epoch, i) for i in order[self.groups_N[order] == group].tolist()] + keys
        return keys[len(keys) - wanted :]


def shard(size: int, rank: int, world: int) -> range:
    """The contiguous part of `size` images that a rank evaluates; the first `size % world` ranks have one more."""
    base, extra = divmod(size, world)
    begin = rank * base + min(rank, extra)
    return range(begin, begin + base + (rank < extra))


def aspect_groups(sizes_N2: np.ndarray) -> np.ndarray:
    """(N,) 1 where an image is wider than high, else 0; sizes are (height, width)."""
    return (sizes_N2[:, 1] > sizes_N2[:, 0]).astype(np.int64)
