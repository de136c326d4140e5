"""What a loader process does beside loading."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np

from detrex_ext.runtime import comm


def worker_seed(seed: int, start: int = 0) -> int:
    """What the generators of this rank's loader processes begin with, for transforms that draw from these.

    Ours draw from (seed, epoch, index) alone. A generator of the loader's own is seeded with it: torch draws from it
    for each iterator, which must not move the trainer's numbers.

    Args:
        seed: of the loader.
        start: the step that the loader begins with: a resumed run does not repeat the chance of its first steps.
    """
    return int(np.random.default_rng((seed, start, comm.get_rank())).integers(2**63))


def end_with_trainer(worker: int) -> None:
    """A ``worker_init_fn``: the process ends when that of the trainer does, also where it was killed.

    torch looks at the parent process alone. Where processes come from a fork server (Python's way from 3.14 on) that is
    not the trainer, and workers of a killed training would wait for work until the machine is started anew.
    """
    trainer = multiprocessing.parent_process()
    if trainer is None:
        return

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, name="end_with_trainer", daemon=True).start()
