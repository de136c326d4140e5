"""Random states of all ranks, saved and restored, so that a resumed run draws what the other would have drawn."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from detrex_ext.runtime import comm

logger = logging.getLogger(__name__)


def get_state() -> dict[str, Any]:
    """State of the generators of ``random``, numpy, torch and this process's GPU, as plain data."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_state(state: dict[str, Any]) -> None:
    """Restores what ``get_state`` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """What happens inside leaves the generators as they were."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)


class RngState:
    """The states of all ranks as one entry of a checkpoint.

    Loading keeps them until ``restore``: between the two, a run builds things that draw numbers.
    """

    def __init__(self) -> None:
        self._saved: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Collective: every rank calls it."""
        return {"ranks": comm.all_gather(get_state())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the states of all ranks for ``restore``; no generator changes yet, but an error comes here."""
        saved = list(state["ranks"])
        if len(saved) == comm.get_world_size():
            with preserved():
                set_state(saved[comm.get_rank()])
        self._saved = saved

    def restore(self) -> None:
        """Sets this rank's generators to what was loaded, if anything was."""
        if self._saved is None:
            return
        if len(self._saved) != comm.get_world_size():
            logger.warning(
                "resume: the checkpoint is of %d processes, this run has %d: random numbers go on differently",
                *(len(self._saved), comm.get_world_size()),
                extra={"only": "file"},
            )
        else:
            set_state(self._saved[comm.get_rank()])
        self._saved = None
