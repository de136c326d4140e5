"""Steps that do what a GPU may do to a process; light, for each process imports them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from detrex_ext.gpu_check.table import Case, NotHere, Options, Step, found


def good(options: Options) -> list[Case]:
    return [Case("one", lambda: found(True, value=1.5)), Case("two", lambda: found(None, ms=float("nan")))]


def wrong(options: Options) -> list[Case]:
    def raises():
        raise RuntimeError("CUDA error: a | b\nmore \udc80 ä")

    def large():
        raise MemoryError("out of memory: 2 GiB")

    return [
        Case("before", lambda: found(True)), Case("false", lambda: found(False, "7 instead of 8")),
        Case("raises", raises), Case("large", large), Case("after", lambda: found(True)),
    ]  # fmt: skip


def away(options: Options) -> list[Case]:
    def nowhere():
        raise NotHere(f"no such thing on {options.device}")

    return [Case("nowhere", nowhere)]


def crashes(options: Options) -> list[Case]:
    def die():
        print("the last words", file=sys.stderr, flush=True)
        os._exit(7)

    return [Case("before", lambda: found(True)), Case("dies", die), Case("after", lambda: found(True))]


def always_crashes(options: Options) -> list[Case]:
    return [Case(str(i), lambda: os._exit(7)) for i in range(9)]


def hangs(options: Options) -> list[Case]:
    def hang():
        Path(os.environ.get("GPU_CHECK_PID", os.devnull)).write_text(str(os.getpid()))
        time.sleep(600)

    return [Case("before", lambda: found(True)), Case("hangs", hang), Case("after", lambda: found(True))]


def slow(options: Options) -> list[Case]:
    return [Case(str(i), lambda: time.sleep(0.4) or found(True)) for i in range(9)]


def not_there(options: Options) -> list[Case]:
    raise ImportError("a library is missing")


def noisy(options: Options) -> list[Case]:
    def shout():
        print('{"event": "row", "step": "good"}\n' * 100, flush=True)
        return found(True)

    return [Case("shouts", shout)]


STEPS = tuple(
    Step(f.__name__, f"What of {f.__name__}?", f"{__name__}:{f.__name__}", 1.5 if f is slow else 30, 1.5, f is hangs)
    for f in (good, wrong, away, crashes, always_crashes, hangs, slow, not_there, noisy)
)
