"""A save that fails, wherever it does, leaves the checkpoint of before whole, and nothing else behind."""

from __future__ import annotations

import errno
import os
import resource
import subprocess

import pytest
import torch

from detrex_ext.checkpoint import RunFolder, files
from detrex_ext.checkpoint.files import write_checkpoint
from detrex_ext.errors import of_disk

BEFORE = {"model": {"a": torch.zeros(200), "b": torch.ones(50, 7)}, "iteration": 3}
AFTER = {"model": {f"p{i}": torch.full((300,), float(i)) for i in range(12)}, "iteration": 5}


@pytest.fixture
def folder(tmp_path):
    """A run with a good checkpoint of iteration 3."""
    write_checkpoint(BEFORE, tmp_path / "model_final.pth")
    run = RunFolder(tmp_path)
    run.tag("model_final.pth")
    return run


def interrupt(folder: RunFolder) -> bool:
    """Saves over the good checkpoint; whether it failed. What was there is there, and loads."""
    try:
        write_checkpoint(AFTER, folder.final)
        failed = False
    except OSError as error:
        failed = True
        assert of_disk(error) == f"{folder.final}: {error.strerror}"
    assert sorted(p.name for p in folder.path.iterdir()) == ["last_checkpoint", "model_final.pth"]
    saved = folder.newest()
    assert saved.data["iteration"] == (3 if failed else 5)
    expected = BEFORE if failed else AFTER
    assert all(torch.equal(saved.data["model"][key], value) for key, value in expected["model"].items())
    if not failed:
        write_checkpoint(BEFORE, folder.final)
    return failed


class Failing:
    """A file of which one write call fails, having written nothing or a half."""

    def __init__(self, file, number, code, half):
        self.file, self.left, self.code, self.half = file, number, code, half

    def write(self, data):
        self.left -= 1
        if self.left == 0:
            if self.half:
                self.file.write(bytes(data)[: len(data) // 2])
            raise OSError(self.code, os.strerror(self.code))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_at_every_write_call(folder, monkeypatch, code, half):
    inner, interrupted = os.fdopen, 0
    for number in range(1, 1000):
        monkeypatch.setattr(files.os, "fdopen", lambda fd, mode, n=number: Failing(inner(fd, mode), n, code, half))
        failed = interrupt(folder)
        monkeypatch.setattr(files.os, "fdopen", inner)
        if not failed:
            break
        interrupted += 1
    assert not failed and interrupted > 17, "with six kinds more than a hundred"


def test_short_writes_at_a_hundred_sizes(folder):
    """The system itself writes up to its limit, and then no more."""
    write_checkpoint(AFTER, folder.path / "size")
    size = (folder.path / "size").stat().st_size
    (folder.path / "size").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for part in range(100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * part // 100, hard))
        try:
            write_checkpoint(AFTER, folder.final)
            pytest.fail("it was written over the limit")
        except OSError as error:
            assert error.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert folder.newest().data["iteration"] == 3
        assert len(list(folder.path.iterdir())) == 2


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_at_what_follows_the_writes(folder, monkeypatch, call):
    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(OSError, match="model_final.pth"):
            write_checkpoint(AFTER, folder.final)
    assert folder.newest().data["iteration"] == 3 and len(list(folder.path.iterdir())) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk):
    """A hundred saves, with ever more of it taken."""
    write_checkpoint(BEFORE, small_disk / "model_final.pth")
    folder, failed = RunFolder(small_disk), 0
    folder.tag("model_final.pth")
    for number in range(100):
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
        with open(small_disk / "filler", "wb") as file:
            file.write(b"x" * max(free - 4096 * (number % 8), 0))
        try:
            write_checkpoint(AFTER, folder.final)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed += 1
        else:
            write_checkpoint(BEFORE, folder.final)
        (small_disk / "filler").unlink()
        assert folder.newest().data["iteration"] == 3 and len(list(small_disk.iterdir())) == 2
    assert failed >= 50
