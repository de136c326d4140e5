"""Work done ahead of who waits for it, and like things put together without losing their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

T, R = TypeVar("T"), TypeVar("R")


def ahead(items: Iterable[T], prepare: Callable[[T], R], most: int, threads: int = 1) -> Iterator[R]:
    """``prepare(item)`` of each item, in order, made by threads while the caller is busy with those before.

    Args:
        items: taken one by one in the caller's thread, at most ``most`` more than were asked for.
        prepare: should release the interpreter's lock, as decoding and resizing do.
        most: results that may wait.
        threads: that prepare.

    Raises:
        Exception: what ``items`` or ``prepare`` raised, at its place: what comes before it is given first.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, "ahead")
    try:
        for future in _submitted(pool, items, prepare):
            waiting.append(future)
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ThreadPoolExecutor, items: Iterable[T], prepare: Callable[[T], R]) -> Iterator[Future[R]]:
    try:
        for item in items:
            yield pool.submit(prepare, item)
    except Exception as error:  # its turn comes after that of what was taken before
        failed: Future[R] = Future()
        failed.set_exception(error)
        yield failed


class Member(Protocol):
    """Something that is worked on together with others."""

    @property
    def kind(self) -> Hashable:
        """Equal for those that go together."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for it."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, done or not."""


M = TypeVar("M", bound=Member)


def together(items: Iterable[M], size: int, work: Callable[[list[M]], None], waiting: int, nbytes: int) -> Iterator[M]:
    """All items in their order, each done: ``work`` gets ``size`` of one kind at a time, or fewer.

    Fewer where too much waits for them, or nothing more comes: then those go that are like the first that waits.

    Args:
        items: in order.
        size: most that go together.
        work: makes all of a list done.
        waiting: most items that wait for others.
        nbytes: most memory that these may hold.
    """
    order: deque[M] = deque()
    groups: dict[Hashable, list[M]] = {}
    held = 0
    for item in items:
        order.append(item)
        held += item.nbytes
        if not item.done:
            group = groups.setdefault(item.kind, [])
            group.append(item)
            if len(group) == size:
                work(groups.pop(item.kind))
        while order and (order[0].done or len(order) > waiting or held > nbytes):
            if not order[0].done:
                work(groups.pop(order[0].kind))
            held -= order[0].nbytes
            yield order.popleft()
    while order:
        if not order[0].done:
            work(groups.pop(order[0].kind))
        yield order.popleft()
