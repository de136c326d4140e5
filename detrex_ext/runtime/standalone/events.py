"""What happened during training: scalars and images by name and iteration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fvcore.common.history_buffer import HistoryBuffer

_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The innermost open storage.

    Raises:
        AssertionError: none is open.
    """
    if not _STACK:
        raise AssertionError("get_event_storage() is called outside of 'with EventStorage(...)'")
    return _STACK[-1]


def has_event_storage() -> bool:
    """True inside of `with EventStorage(...)`."""
    return bool(_STACK)


class EventStorage:
    """Scalars with their history, and images until a writer takes them.

    A context manager: what is inside finds it by `get_event_storage()`.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._current_prefix = ""
        self._vis_data: list[tuple[str, Any, int]] = []

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a number.

        Args:
            name: the open `name_scope` goes before it.
            value: anything `float` takes.
            smoothing_hint: whether readers should look at a median instead of the last value; one per name.
            cur_iter: iteration it belongs to; the current one by default.
        """
        name, value = self._current_prefix + name, float(value)
        cur_iter = self._iter if cur_iter is None else cur_iter
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar '{name}' was first put with smoothing_hint={not smoothing_hint}")
        self._history[name].update(value, cur_iter)
        self._latest_scalars[name] = (value, cur_iter)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Add a number per keyword; the other arguments are those of `put_scalar`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Add an image (3, H, W): uint8, or float in 0..1."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def history(self, name: str) -> HistoryBuffer:
        """Raises: KeyError: nothing was put under that name."""
        if name not in self._history:
            raise KeyError(f"no history of '{name}'")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Name -> history of all scalars; the mapping itself, not a copy."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Name -> (value, iteration) of what was put last."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, with the median over the last `window_size` iterations where smoothing was hinted."""
        out = {}
        for name, (value, iteration) in self._latest_scalars.items():
            if self._smoothing_hints[name]:
                value = float(self._history[name].median(self.count_samples(name, window_size)))
            out[name] = (value, iteration)
        return out

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of `name` were put within the last `window_size` iterations up to its newest."""
        values = self._history[name].values()
        newest = values[-1][1]
        count = 0
        for _, iteration in reversed(values):
            if iteration <= newest - window_size:
                break
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        """Name -> whether a median should be shown instead of the last value."""
        return self._smoothing_hints

    def step(self) -> None:
        """Go to the next iteration."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The iteration to which what is put belongs."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Scalars put inside are called `name/...`."""
        previous = self._current_prefix
        self._current_prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = previous

    def clear_images(self) -> None:
        """Drop the images; a writer that took them calls it."""
        self._vis_data = []

    def __enter__(self) -> EventStorage:
        _STACK.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if _STACK.pop() is not self:
            raise AssertionError("event storages are closed in another order than they were opened")
