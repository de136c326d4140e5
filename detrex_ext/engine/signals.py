"""Signals that ask a training to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

from detrex_ext.runtime import HookBase

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """A signal ended the training after a checkpoint; the exit code is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


class SignalHook(HookBase):
    """Notes SIGTERM, SIGINT and SIGUSR1 for the end of the step; a later one acts at once.

    Ctrl-C in a terminal reaches every process of a group, and again when their parent ends: what comes within
    ``TOGETHER`` seconds of the first is the same wish.
    """

    TOGETHER = 2.0

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
            logger.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)
        elif now - self._noted > self.TOGETHER:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
