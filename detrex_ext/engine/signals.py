"""Signals that ask a training to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from detrex_ext.runtime import HookBase, comm

from . import rng

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """A signal ended the training after a checkpoint; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


class EvaluationStopped(Exception):
    """A signal asked some rank to stop in an evaluation; raised on all of them."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class StoppableLoader:
    """Gives a loader's batches until a signal asks this rank to stop; at the end all ranks hear whether one was asked.

    Args:
        loader: of an evaluation.
        trainer: notes the signal as ``stop_signal``.

    Raises:
        EvaluationStopped: in the iteration, after the last batch.
    """

    def __init__(self, loader: Any, trainer: Any) -> None:
        self.loader, self.trainer = loader, trainer

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.trainer.stop_signal:
                break
            yield batch
        if number := max(comm.all_gather(self.trainer.stop_signal)):
            raise EvaluationStopped(number)


@contextlib.contextmanager
def stopped_by(stop: Callable[[int], None]) -> Iterator[None]:
    """An evaluation within it that is stopped ends in ``stop(signal)``, with the generators as they were before it."""
    state = rng.get_state()
    try:
        yield
    except EvaluationStopped as asked:
        rng.set_state(state)
        stop(asked.signal)


class SignalHook(HookBase):
    """Notes SIGTERM, SIGINT and SIGUSR1 for the end of the step or the evaluation's batch; a later one acts at once.

    Ctrl-C in a terminal reaches every process of a group, and again when their parent ends: what comes within
    ``TOGETHER`` seconds of the first is the same wish.
    """

    TOGETHER = 2.0
    runs_last = True  # the evaluation at the end is one too

    SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, n))

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._noted: float | None = None

    def before_train(self) -> None:
        """Take over the signals, in the main thread only: Python allows it nowhere else."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._note) for s in self.SIGNALS}

    def after_train(self) -> None:
        """Give the signals back to their former handlers."""
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._noted is None:
            self._noted, self.trainer.stop_signal = now, number
            name = signal.Signals(number).name
            logger.warning("%s: stopping as soon as there is a checkpoint; once more: at once", name)
        elif now - self._noted > self.TOGETHER:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
