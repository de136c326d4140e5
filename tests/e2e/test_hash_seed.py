"""A training is the same in a process that orders sets and names otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from training import assert_same_run

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import sys
from pathlib import Path
from training import train
train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
"""


def test_the_order_of_sets_changes_nothing(shapes_data, tmp_path):
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "tests", "tests/e2e"))
    outs, processes = [tmp_path / "1", tmp_path / "2"], []
    for out in outs:
        command = [sys.executable, "-c", TRAIN, str(shapes_data), str(out), "train.max_iter=3"]
        env = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": out.name}
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL))
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert_same_run(*outs)
