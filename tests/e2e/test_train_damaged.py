"""A checkpoint that cannot be written, and one that is not as it was written."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from training import in_process, overrides, train

from detrex_ext.checkpoint import RunFolder
from detrex_ext.checkpoint.files import own_iteration

SHORT = ("train.max_iter=2", "train.eval_period=0", "train.checkpointer.period=1", "dataset.val_json=''")


def test_a_resume_goes_on_from_the_one_before_a_damaged_one(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, SHORT) == 0
    for path in (RunFolder(tmp_path).final, RunFolder(tmp_path).periodic(1)):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(4096)
        path.write_bytes(content)
    assert in_process(train, shapes_data, tmp_path, (*SHORT, "train.max_iter=3"), resume=True) == 0
    assert f"Loading from {RunFolder(tmp_path).periodic(0)}" in (tmp_path / "log.txt").read_text()
    assert own_iteration(RunFolder(tmp_path).final) == 2


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_no_room_ends_in_one_line(shapes_data, tmp_path, processes):
    """A limit of the size of files stands for a full disk: all processes of the training inherit it."""

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    argv = ["--config-file", "small", "--num-gpus", processes, *overrides(shapes_data, tmp_path / "out"), *SHORT]
    command = [sys.executable, "-m", "detrex_ext", "train", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=no_room)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr[-2000:]
    assert any("model_0000000.pth: cannot be written: File too large" in line for line in lines), done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "go on with --resume" in lines[-1]
    assert not list((tmp_path / "out").glob("*.pth")) and not list((tmp_path / "out").glob(".saving-*"))
