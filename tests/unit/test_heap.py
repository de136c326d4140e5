"""Memory that a step frees is there for the next, where glibc has it and nobody said otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from detrex_ext.runtime import heap

PROGRAM = """
import ctypes, resource, sys
from detrex_ext.runtime import heap

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes, c.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size, count, faults = 8 << 20, 12, []
places = [0] * count
if sys.argv[1] == "keep":
    assert heap.keep_freed()
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for i in range(count):
        places[i] = c.malloc(size)
        c.memset(places[i], 1, size)
    for i in range(count):
        c.free(places[i])
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(faults[3:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_a_step_uses_the_pages_of_the_step_before():
    environment = {k: v for k, v in os.environ.items() if k not in heap._SAID}

    def faults(what: str) -> int:
        command = [sys.executable, "-c", PROGRAM, what]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    kept, given_back = faults("keep"), faults("as it is")
    assert kept < 200 < given_back


@pytest.mark.parametrize("name", heap._SAID)
def test_what_a_person_says_of_malloc_holds(monkeypatch, name):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("malloc was changed"))
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    for other in heap._SAID:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    assert heap.keep_freed() is False


@pytest.mark.parametrize(
    ("library", "load"),
    [(("", ""), None), (("glibc", "2.36"), lambda _: object()), (("glibc", "2.36"), OSError("no library"))],
)
def test_another_c_library_is_left_alone(monkeypatch, library, load):
    def fail(_):
        raise load

    for name in heap._SAID:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: library)
    monkeypatch.setattr(heap.ctypes, "CDLL", fail if isinstance(load, OSError) else load)
    assert heap.keep_freed() is False
