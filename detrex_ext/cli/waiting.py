"""How torch's threads wait for each other; OpenMP reads it when torch is loaded, so that this comes before.

A thread that waits spins for milliseconds before it sleeps. Alone on a machine that is the quickest way. Beside other
programs it takes the processor from the thread that it waits for. Seconds of a step of configs/quickstart.py, bf16, 2
threads on 2 cores, medians of 3 to 11, all settings in turn:

    turns (GOMP_SPINCOUNT)                     default  100000   10000    1000     100       0
    nothing else runs                            0.140   0.144   0.158   0.185   0.216   0.230
    beside 2 programs that never wait, and tests  1.67    1.47    0.97    0.56    0.61    0.69
      the longest step                            8.46    5.84    4.92    2.96    1.69    0.91

No one number is good at both, so that it is chosen by what runs at the start.
"""

from __future__ import annotations

import os
import sys
import time

from detrex_ext.runtime.system_files import text_of

CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPIN = "1000"
_LOOKS, _PAUSE = 6, 0.01  # seconds


def settle_waiting() -> None:
    """Lets waiting threads sleep early where the processors are busy, unless the person said how they wait."""
    if "torch" not in sys.modules and not any(os.environ.get(name) for name in CHOICES) and _busy():
        os.environ["GOMP_SPINCOUNT"] = SPIN


def _busy() -> bool:
    """Whether our threads do not fit beside what runs; False where the system does not say what does."""
    running = []
    for _ in range(_LOOKS):
        count = text_of("proc/loadavg").split(" ")[3:4]  # "2/345", this process among the 2
        number = count[0].partition("/")[0] if count else ""
        if not number.isascii() or not number.isdecimal() or len(number) > 9:
            return False
        running.append(int(number) - 1)
        time.sleep(_PAUSE)
    logical = os.cpu_count() or 1
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return own > 1 and sum(running) / len(running) + own > logical + 0.5
