"""A training's claim to its output folder: whose it is, and what of it a new start takes away."""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from detrex_ext.checkpoint import RunFolder, Saved
from detrex_ext.checkpoint.rewinding import rewind
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)


def named(folder: str | None) -> str:
    """The name of a run's folder; a `UserError` where it is empty."""
    if not folder:
        raise UserError("train.output_dir is empty: name the folder of the run")
    return folder


class Claim:
    """A context in which no other training may go on in the folder.

    The lock is of the process that writes: it ends with it, however that ends.

    Args:
        folder: the run's; made when the context is entered, on all ranks.
        resume: what is there is gone on with.
        overwrite: what is there may be taken away, by ``clear``.

    Raises:
        UserError: on entering, where another training goes on in the folder; where checkpoints or metrics of another
            run are there that is neither to be resumed nor to be overwritten (nothing is touched then); or where it
            cannot be made.
    """

    def __init__(self, folder: RunFolder, resume: bool, overwrite: bool) -> None:
        self.folder, self._resume, self._overwrite = folder, resume, overwrite
        self._lock: IO[str] | None = None
        self._old_logs: dict[Path, int] | None = None

    def __enter__(self) -> Claim:
        refused = ""
        if comm.is_main_process():  # looked at again when it is locked: another training may have come and gone
            refused = self._refusal() or self._take() or self._refusal()
        refused = comm.all_gather(refused)[0]
        if refused:
            self.__exit__()
            raise UserError(refused)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lock is not None:
            self._lock.truncate(0)  # the next holder's name comes after its lock: nobody reads this one's until then
            self._lock.close()

    def _refusal(self) -> str:
        """Why the run that the folder holds must stay as it is, or ""; notes the logs of one that may go."""
        if obstacle := self.folder.obstacle():
            return obstacle
        found = [path.name for path in self.folder.results()]
        if self._resume or not found:
            return ""
        if self._overwrite:
            self._old_logs = {path: path.stat().st_size for path in self.folder.logs()}
            return ""
        shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        config = f"--config-file {self.folder.path} " if self.folder.config.is_file() else ""
        return (
            f"train.output_dir={self.folder.path} holds another run: {shown}\n"
            f"  go on with it: {config}--resume    start over in it: train.overwrite=true    "
            "or name another train.output_dir"
        )

    def _take(self) -> str:
        """Locks the folder; why it cannot be had, or ""."""
        try:
            os.makedirs(self.folder.path, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL
            reason = getattr(error, "strerror", error)
            return f"train.output_dir={self.folder.path}: this folder cannot be made: {reason}"
        try:
            lock = open(self.folder.lock, "a+", encoding="utf-8", opener=_no_link)
        except OSError as error:
            return f"{self.folder.lock}: the lock of the folder cannot be opened: {error.strerror}"
        try:
            # a lock of the process, not of the open file: workers that outlive it for a while do not inherit it
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _holder(lock)
            lock.close()
            return (
                f"train.output_dir={self.folder.path}: another training goes on in it{holder and f' ({holder})'}\n"
                "  wait until it ends, or name another train.output_dir"
            )
        except (OSError, AttributeError) as error:  # some network file systems, Windows
            logger.warning("%s cannot be locked (%s): nothing keeps a second training out", self.folder.path, error)
            lock.close()
            return ""
        lock.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=lock, flush=True)
        self._lock = lock
        return ""

    def clear(self) -> None:
        """Takes an old run away, its lines of the logs too, when all that the new one needs has been read.

        Weights to start from may be the old run's own, and a mistyped path must not cost it.
        """
        comm.synchronize()  # no rank writes a line until all may go on
        if self._old_logs is not None:  # on rank 0 alone
            self.folder.remove_results()
            for path, size in self._old_logs.items():
                _cut_head(path, size)
        comm.synchronize()

    def rewind(self, saved: Saved | None, start_iter: int) -> None:
        """Takes out of the folder what comes after the checkpoint that training goes on from."""
        if comm.is_main_process():
            rewind(self.folder, None if saved is None else Path(saved.path), start_iter - 1)
        comm.synchronize()


def _holder(lock: IO[str]) -> str:
    """Who has the lock; "" where it is not told within half a second, for the name comes after the lock."""
    for _ in range(10):
        lock.seek(0)
        if holder := lock.read().strip():
            return holder
        time.sleep(0.05)
    return ""


def _no_link(path: str, flags: int) -> int:
    """Opens a file that is written to, never one elsewhere that a link of that name leads to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _cut_head(path: Path, size: int) -> None:
    """Drops the first bytes of a log, in place: loggers that have it open append to it. A log of nobody now goes."""
    with open(path, "r+b") as file:
        file.seek(size)
        rest = file.read()
        file.seek(0)
        file.write(rest)
        file.truncate()
    if not rest:
        path.unlink()
