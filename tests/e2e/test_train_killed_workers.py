"""A training that is killed leaves no loader process behind, however these were started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from detrex_ext.data.workers import end_with_trainer


def trainer(file: str) -> None:
    """Loads with two workers, says which they are, and is killed."""
    loader = DataLoader(range(100), num_workers=2, worker_init_fn=end_with_trainer)
    batches = iter(loader)
    next(batches)
    Path(file).write_text(" ".join(str(worker.pid) for worker in batches._workers))
    os.kill(os.getpid(), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked for in /proc")
def test_workers_of_a_killed_trainer_end(tmp_path):
    file = tmp_path / "pids"
    process = multiprocessing.get_context("forkserver").Process(target=trainer, args=(str(file),))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    pids = list(map(int, file.read_text().split()))
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2 and not any(map(is_running, pids))
