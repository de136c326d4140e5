"""What a loader process does beside loading."""

from __future__ import annotations

import multiprocessing
import os
import threading


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
