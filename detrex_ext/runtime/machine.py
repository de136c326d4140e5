"""What this process may use of the machine: cores, memory, caches, instructions; and how many threads that is."""

from __future__ import annotations

import os
import platform
import re

import torch

from . import native
from .system_files import cpu_quota, memory_limit, text_of

_CPUS = "sys/devices/system/cpu"
_SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # how a person tells torch the number of threads
_ATEN = {"AVX512": "AVX-512", "SVE256": "SVE", "DEFAULT": "", "NO AVX": ""}
_given: tuple[int, str] | None = None  # the threads that torch was given here, and why


def processor() -> str:
    """Its name."""
    name = re.search(r"^model name\s*:\s*(.+)$", text_of("proc/cpuinfo"), re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine() or "unknown"


def affinity() -> set[int]:
    """Numbers of the logical processors on which this process may run."""
    try:
        return set(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Linux alone has it
        return set(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores may be busy at once, at least 1: physical ones of the affinity, or fewer by the quota of time."""
    count, quota = _physical(), cpu_quota()
    # the nearest whole number: 1.5 processors carry two threads better than one, 1.4 do not
    return max(1, count if quota is None else min(count, int(quota + 0.5)))


def cores_text() -> str:
    """The same for people: "2 cores (of 8: a control group allows 2 processors)"."""
    number, physical, usable, logical = cores(), _physical(), len(affinity()), os.cpu_count() or 1
    notes = []
    if number < physical:
        quota = cpu_quota()
        notes.append(f"of {physical}: a control group allows {quota:g} processor{'s' * (quota != 1)}")
    if usable < logical:
        notes.append(f"the affinity allows {usable} of {logical} processors")
    elif physical < logical:
        notes.append(f"{logical} processors by hyper-threading")
    return f"{number} core{'s' * (number > 1)}" + (f" ({'; '.join(notes)})" if notes else "")


def memory() -> int | None:
    """Bytes that this process may use: of the machine, or fewer where a control group says so; None = not known."""
    total = re.search(r"^MemTotal:\s+(\d{1,15}) kB", text_of("proc/meminfo"), re.MULTILINE)
    return min(filter(None, (int(total[1]) * 1024 if total else None, memory_limit())), default=None)


def caches() -> dict[int, int]:
    """Bytes of the caches of levels 2 and 3, by level, as the first of our processors has them."""
    found = {}
    for index in range(8):
        folder = f"{_CPUS}/cpu{min(affinity())}/cache/index{index}"
        level, size = text_of(f"{folder}/level"), re.fullmatch(r"(\d{1,9})([KMG]?)", text_of(f"{folder}/size"))
        if level in ("2", "3") and size:
            found[int(level)] = int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    return found


def instructions() -> str:
    """The widest instructions in use, in words, and what holds them: "AVX-512, bf16", "AVX2", "NEON"."""
    aten, products = torch.backends.cpu.get_cpu_capability(), native.widest()
    torchs = _ATEN.get(aten, aten) or ("NEON" if products == "NEON" else "no AVX2")
    text = torchs if products in ("", torchs) else f"{torchs}, of oneDNN {products}"
    if native.half(torch.device("cpu"), "bf16")[0]:
        text += ", bf16"
    held = [f"{name}={os.environ[name]}" for name in ("ATEN_CPU_CAPABILITY", *native.LIMITS) if os.environ.get(name)]
    return text + (f" ({', '.join(held)})" if held else "")


def fit_threads(processes: int = 1) -> None:
    """Give torch one thread per core where nobody chose a number and its own choice is larger.

    torch knows the affinity of a process, not the quota of time of its control group: threads that it does not pay for
    are stopped for a part of every period, and the others wait for them.

    Args:
        processes: that share the machine.
    """
    global _given
    now, wanted = torch.get_num_threads(), max(1, cores() // max(processes, 1))
    own = now in (_physical(), len(affinity()), os.cpu_count())  # what torch chooses by itself; else a person did
    if own and now > wanted and not _said():
        torch.set_num_threads(wanted)
        _given = wanted, f"of torch's own {now}" if processes == 1 else f"for each of {processes} processes"


def threads_text() -> str:
    """How many threads torch uses, and why: "2 threads (OMP_NUM_THREADS=2)"."""
    now, notes = torch.get_num_threads(), _said()
    if not notes and _given and _given[0] == now:
        notes = [_given[1]]
    if now > cores():
        notes.append(f"more than cores, {cores()}: they wait for each other")
    return f"{now} thread{'s' * (now > 1)}" + (f" ({'; '.join(notes)})" if notes else "")


def waiting_text() -> str:
    """What was said of how torch's threads wait for each other."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name)) or "OpenMP's default"


def _said() -> list[str]:
    return [f"{name}={os.environ[name]}" for name in _SAID if os.environ.get(name)]


def _physical() -> int:
    """Cores of the affinity; the logical processors of one core count once."""
    return len({text_of(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in affinity()})
