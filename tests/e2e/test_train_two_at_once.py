"""Two trainings that are started in one folder at once: one goes on, the other is told and touches nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from test_train_resume import term_in_step_4
from training import assert_same_run, in_process, overrides, start_process, train

from detrex_ext.cli import dispatch

OPTIONS = ("train.max_iter=30", "train.checkpointer.period=5")


def begin_together(meeting: Path, *argv: str) -> None:
    """The command, when the other process is as far."""
    torch.set_num_threads(1)
    (meeting / str(os.getpid())).touch()
    deadline = time.monotonic() + 120
    while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
        pass
    with open(meeting.parent / f"{os.getpid()}.txt", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        sys.exit(dispatch(argv))


def both(meeting: Path, argv: list[str]) -> dict[int, str]:
    """Exit code -> what was said on standard error, of the two."""
    meeting.mkdir()
    processes = [start_process(begin_together, meeting, *argv) for _ in range(2)]
    try:
        for process in processes:
            process.join(300)
        return {p.exitcode: (meeting.parent / f"{p.pid}.txt").read_text() for p in processes}
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("how", ["fresh", "resuming"])
def test_one_goes_on(shapes_data, tmp_path, how):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert in_process(train, shapes_data, whole, OPTIONS) == 0
    argv = ["train", "--config-file", "small", *overrides(shapes_data, out), *OPTIONS]
    if how == "resuming":
        argv.append("--resume")
        assert in_process(train, shapes_data, out, OPTIONS, sabotage=term_in_step_4) == 128 + signal.SIGTERM
    said = both(tmp_path / "meeting", argv)
    assert sorted(said) == [0, 2], said
    assert "another training goes on in it (process " in said[2] or (how == "fresh" and "holds another run" in said[2])
    assert "Traceback" not in said[2]
    assert_same_run(whole, out)
    assert (out / "log.txt").read_text().count("Starting training") == (1 if how == "fresh" else 2)
