"""Why a job failed: what each rank that failed says, and which of it is the reason."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from detrex_ext.errors import JobFailed, UserError, of_disk

# from the plainest to what only follows from another's failure
_KINDS = ("user", "numbers", "lost", "other", "connection")
_ERRORS = {"user": UserError, "numbers": FloatingPointError, "lost": JobFailed, "connection": JobFailed}
_CODES = {"user": 2}
# of gloo, NCCL and the store, when the process at the other end is gone
_CONNECTION = re.compile(r"\b(connections?|gloo|nccl|peer|sockets?|(tcp)?store|barrier|broken pipe)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """What one rank says.

    Attributes:
        kind: user (bad input, a full disk), numbers (not finite), lost (a process), other, or connection (to another
            rank, which comes of that one's failure).
        text: the message; of other kinds a traceback.
        time: seconds since the epoch.
    """

    kind: str
    text: str
    time: float

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of an exception that is being handled."""
        kind, text = "other", str(error)
        if isinstance(error, OSError) and of_disk(error):
            kind, text = "user", of_disk(error)
        for one, known in _ERRORS.items():
            if one != "connection" and isinstance(error, known):
                kind = one
        broken = isinstance(error, RuntimeError) and _CONNECTION.search(text)
        if kind == "other" and (broken or isinstance(error, ConnectionError)):
            kind, text = "connection", (text.splitlines() or [""])[0]
        return cls(kind, traceback.format_exc() if kind == "other" else text, time.time())

    @property
    def code(self) -> int:
        """Exit code of the process."""
        return _CODES.get(self.kind, 1)

    def error(self, rank: int, pid: int) -> Exception:
        """To raise where the job was started."""
        if self.kind in _ERRORS:
            return _ERRORS[self.kind](self.text)
        return ProcessRaisedException(f"process {rank} failed:\n{self.text}", rank, pid)


class Reports:
    """The failures of the ranks of a machine, as files of a folder."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)

    def write(self, rank: int, failure: Failure) -> None:
        """The first of a rank counts."""
        path = self.folder / f"{rank}.json"
        if not path.exists():
            temp = path.with_suffix(".part")
            temp.write_text(json.dumps(asdict(failure)), encoding="utf-8")
            os.replace(temp, path)

    def read(self) -> dict[int, Failure]:
        """By rank."""
        found = {}
        for path in self.folder.glob("*.json"):
            found[int(path.stem)] = Failure(**json.loads(path.read_text(encoding="utf-8")))
        return found

    @contextlib.contextmanager
    def exits(self, rank: int) -> Iterator[None]:
        """Whatever ends the process within it is reported, and becomes an exit code; nothing is printed."""
        try:
            yield
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except Exception as error:
            failure = Failure.of(error)
            self.write(rank, failure)
            sys.exit(failure.code)


def reason(reports: Mapping[int, Failure], exits: Mapping[int, tuple[int, int]], first: int = 0) -> Exception | None:
    """What to raise where a job was started; None where all went well.

    Args:
        reports: by rank of this machine.
        exits: (process, exit code) by rank, of those that were not ended after a failure.
        first: number of the machine's first rank in the job.
    """
    order = sorted(reports, key=lambda rank: (_KINDS.index(reports[rank].kind), reports[rank].time))
    plain = next((rank for rank in order if reports[rank].kind in ("user", "numbers", "lost")), None)
    if plain is not None:
        return reports[plain].error(first + plain, exits.get(plain, (0, 0))[0])
    stopped = [(rank, *found) for rank, found in exits.items() if found[1] > 128]
    for rank, (pid, code) in exits.items():
        if code < 0 and not stopped:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            short = ", as the system does when memory is short" if name == "SIGKILL" else ""
            text = f"rank {first + rank} (process {pid}) was killed by {name}{short}"
            return JobFailed(f"{text}\n  the last checkpoint is whole: go on with --resume")
    if order and not stopped:
        return reports[order[0]].error(first + order[0], exits.get(order[0], (0, 0))[0])
    failed = stopped or [(rank, *found) for rank, found in exits.items() if found[1]]
    if not failed:
        return None
    rank, pid, code = failed[0]
    return ProcessExitedException(f"process {first + rank} ended with code {code}", first + rank, pid, code)
