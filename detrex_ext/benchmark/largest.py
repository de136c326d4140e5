"""The largest batch that fits a card, by the peaks of :mod:`.peak`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from .peak import GIB, Peak, Sizes, peak

# (name, GiB that its owner finds there); of them 0.75 are the driver's and its libraries', and a twentieth lies between
# what was allocated
CARDS = {"24 GB": 23.5, "40 GB": 39.4, "80 GB": 79.1}
OVERHEAD, LOST = 0.75, 0.05
MOST = 4096  # images


def usable(gib: float) -> float:
    """Bytes of a card that tensors can have."""
    return (gib - OVERHEAD) * (1 - LOST) * GIB


def largest(cfg: DictConfig, sizes: Sizes, cards: Sequence[float]) -> tuple[Peak, list[int]]:
    """The peak of a batch of one, and the largest batch that fits each card, of so many GiB; 0 where none does."""
    known: dict[int, Peak] = {}

    def total(batch: int) -> int:
        if batch not in known:
            known[batch] = peak(cfg, batch, sizes)
        return known[batch].total

    found = [_largest(total, usable(gib)) for gib in cards]
    return known[1], found


def _largest(total: Callable[[int], int], room: float) -> int:
    """The largest batch with at most so many bytes. They grow along a line, or a steeper one from some batch on."""
    if total(1) > room or total(2) > room:
        return int(total(1) <= room)
    low, high, slope = 2, MOST + 1, total(2) - total(1)
    each = slope
    while high - low > 1 and total(low) + slope <= room:
        guess = min(max(int(low + (room - total(low)) / max(each, 1)), low + 1), high - 1)
        if total(guess) <= room:
            slope = each = (total(guess) - total(low)) / (guess - low)
            low = guess
        else:
            high = guess
            each = (total(high) - total(low)) / (high - low)
    return low
