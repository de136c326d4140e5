"""What glibc does with memory that a training step frees."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_BLOCK = 32 << 20  # larger ones are given back when freed: the most that glibc comes to by itself
_MOST = (1 << 31) - 1
_SAID = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed() -> bool:
    """Have glibc keep the memory of one step for the next.

    By itself it gives what lies free on top of the heap back to the system, at the end of every step, and each page is
    cleared anew in the next: on a CPU a tenth of a small model's step. The peak of a process stays what it was.

    Returns:
        Whether it does; False with another C library, and where a person has set what malloc does.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in _SAID):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
    except (AttributeError, OSError):
        return False


def told(kept: bool) -> str:
    """The answer of :func:`keep_freed` in words."""
    return "kept for the next step" if kept else "as the C library has it"
