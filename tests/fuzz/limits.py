"""One answer to hostile input: taken, refused in one message, or what must never be."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from detrex_ext.errors import UserError

SECONDS = 20


class TooLong(BaseException):
    """It took longer than its limit."""


def answer(work: Callable[[], Any], seconds: int = SECONDS) -> str:
    """ "taken", "refused" where a UserError told why, or the last line of a traceback."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        work()
        return "taken"
    except UserError as error:
        return "refused" if str(error).strip() and len(str(error)) < 20_000 else "refused without a message"
    except TooLong:
        return f"no answer in {seconds} s"
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:100]} ({at.filename.rsplit('/', 1)[-1]}:{at.lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def program(run: Callable[..., tuple[Any, list[str]]], count: int) -> None:
    """Prints the counts of a run; arguments of the command line are its own, by default the count."""
    counts, wrong = run(*(map(int, sys.argv[1:]) if len(sys.argv) > 1 else [count]))
    print("\n".join([*(f"{n:6} {kind}: {what}" for (kind, what), n in sorted(counts.items())), *wrong]))
    print(f"{counts.total()} files, {len(wrong)} wrong")
