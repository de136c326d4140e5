"""Two processes, one of which is killed, stopped, fails or loses its parent: all end soon, and one says why."""

from __future__ import annotations

import os
import re
import shutil
import time

import pytest
from jobs import ROOT, job, torchrun

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked for in /proc")
SCRIPT = str(ROOT / "tests" / "e2e" / "lost_processes.py")
LIMIT = 30  # seconds from what happened until nothing is left
SHORT = ("train.max_iter=400", "train.eval_period=0", "train.checkpointer.period=100", "train.watchdog=5")

# what -> exit code under launch, what the console says once
EXPECTED = {
    "killed": (1, "stopped: rank 1 (process {pid}) was killed"),
    "stopped": (1, "stopped: rank 1 (process {pid}) is stopped since "),
    "nan": (1, "stopped: iteration 2: process 1: total_loss, loss_class not finite\n  batch: "),
    "image": (2, "train_00000.png"),
    "user": (2, "what is wrong\n  what to do\n"),
    "disk": (2, "a.pth: No space left on device\n"),
    "parent_killed": (-9, "iterations; go on with --resume"),
    "parent_terminated": (143, "iterations; go on with --resume"),
}


@pytest.fixture(scope="module")
def bad_data(shapes_data, tmp_path_factory):
    """One picture of the training is cut off behind its head."""
    data = shutil.copytree(shapes_data, tmp_path_factory.mktemp("bad") / "data")
    picture = data / "images" / "train_00000.png"
    picture.write_bytes(picture.read_bytes()[:-200])
    return data


def outcome(argv, tmp_path, data, kind):
    """(exit code, console, seconds it took) of a job to which something happened."""
    out = tmp_path / "out"
    more = ("dataloader.train.max_unreadable=0",) if kind == "image" else ()
    with job([*argv, kind, str(data), str(out), *SHORT, *more], tmp_path) as running:
        happened, deadline = out / "happened", time.monotonic() + 240
        while kind != "image" and not happened.exists() and time.monotonic() < deadline:
            assert running.process.poll() is None, running.text()
            time.sleep(0.1)
        began = time.monotonic()
        assert running.end(240 if kind == "image" else LIMIT), f"{running.left()} are left\n{running.text()}"
        return running.process.returncode, running.text(), time.monotonic() - began


def kinds(*short: str) -> list:
    """All, the others in the long suite."""
    return [kind if kind in short else pytest.param(kind, marks=pytest.mark.slow) for kind in EXPECTED]


@pytest.mark.parametrize("kind", kinds("killed", "stopped"))
def test_launch(shapes_data, bad_data, tmp_path, kind):
    code, text, _ = outcome([SCRIPT], tmp_path, bad_data if kind == "image" else shapes_data, kind)
    expected, says = EXPECTED[kind]
    assert code == expected, text
    assert_said(says, text)
    assert "Traceback" not in text, text
    if kind.startswith("parent"):
        assert_saved(tmp_path / "out", text)


@pytest.mark.parametrize("kind", kinds("user"))
def test_torchrun(shapes_data, bad_data, tmp_path, kind):
    """Its own report at the end holds a traceback, which is its alone; ours have none, and the report the reason."""
    code, text, _ = outcome(torchrun(SCRIPT), tmp_path, bad_data if kind == "image" else shapes_data, kind)
    assert code == -9 if kind == "parent_killed" else code != 0, text
    says = EXPECTED[kind][1]
    ours, report, _ = text.partition("torch.distributed.elastic.multiprocessing.errors")
    if kind == "killed":  # torchrun may be the first to see it, and ends us before we can say so
        assert "Signal 9 (SIGKILL) received by PID" in text, text
    else:
        assert_said(says, ours)
    assert text.count("Traceback") <= 1, text
    if kind in ("nan", "user", "disk"):
        assert says.splitlines()[0].removeprefix("stopped: ") in text[len(ours) :], text
    if kind.startswith("parent"):
        assert_saved(tmp_path / "out", text)


def assert_saved(out, text):
    """What was done when the signal came."""
    done = int(re.search(r"SIGTERM: stopped after (\d+) iterations", text)[1])
    assert (out / "last_checkpoint").read_text() == f"model_{done - 1:07d}.pth" and done < 20


def assert_said(says: str, text: str) -> None:
    head, _, tail = says.partition("{pid}")
    assert text.count(head) == 1 and tail in text, text
