"""What a process may use of a machine, on machines that are made of files."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from detrex_ext.cli import waiting
from detrex_ext.data import build
from detrex_ext.engine import collect_env_info, launching, ranks
from detrex_ext.engine.failures import Reports
from detrex_ext.runtime import machine, native, system_files


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a machine of so many logical processors and of files."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", *native.LIMITS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(system_files, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "_given", None)

    def make(logical: int, files: dict[str, str] | None = None, allowed: int | None = None, per_core: int = 1) -> None:
        monkeypatch.setattr(machine, "affinity", lambda: set(range(allowed or logical)))
        monkeypatch.setattr(os, "cpu_count", lambda: logical)
        for cpu in range(logical):
            first = cpu // per_core * per_core
            siblings = ",".join(str(first + i) for i in range(per_core))
            write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
        for name, text in (files or {}).items():
            write(name, text)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))

    return make


@pytest.fixture
def threads(monkeypatch):
    """torch's number of threads, which no test changes in truth."""
    held = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: held[-1])
    monkeypatch.setattr(torch, "set_num_threads", held.append)
    return held


CGROUP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "140000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "6400000 100000\n"}, 8),
        # a group allows more than the one that it lies in
        ({"proc/self/cgroup": "0::/a/b\n", f"{CGROUP}/a/b/cpu.max": "700000 100000",
          f"{CGROUP}/a/cpu.max": "300000 100000"}, 3),
        # version 1, by either name of the folder; the path of the host is not seen in a container
        ({"proc/self/cgroup": "4:cpu,cpuacct:/docker/1f\n", f"{CGROUP}/cpu,cpuacct/cpu.cfs_quota_us": "400000",
          f"{CGROUP}/cpu,cpuacct/cpu.cfs_period_us": "100000"}, 4),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/x\n0::/\n", f"{CGROUP}/cpu/x/cpu.cfs_quota_us": "50000",
          f"{CGROUP}/cpu/x/cpu.cfs_period_us": "10000"}, 5),
        ({"proc/self/cgroup": "1:cpu:/\n", f"{CGROUP}/cpu/cpu.cfs_quota_us": "-1",
          f"{CGROUP}/cpu/cpu.cfs_period_us": "100000"}, 8),
        # what no kernel writes
        ({"proc/self/cgroup": "0::/../../etc\n", f"{CGROUP}/cpu.max": "0 0\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": ""}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "\u00b2 \u0663\nmax"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "9" * 5000 + " 1"}, 8),
        ({"proc/self/cgroup": "\x00\udcff::::\n\n:", f"{CGROUP}/cpu.max": "200000 100000\n"}, 8),
    ],
)  # fmt: skip
def test_cores_that_a_control_group_pays_for(fake, files, cores):
    fake(8, files)
    assert machine.cores() == cores
    assert ("control group" in machine.cores_text()) == (cores < 8)


def test_cores_of_an_affinity_and_of_hyper_threading(fake):
    fake(8, per_core=2)
    assert machine.cores() == 4 and machine.cores_text() == "4 cores (8 processors by hyper-threading)"
    fake(8, allowed=4, per_core=2)
    assert machine.cores_text() == "2 cores (the affinity allows 4 of 8 processors)"


def test_a_system_without_such_files_has_its_processors(fake, monkeypatch):
    fake(1)
    monkeypatch.undo()
    monkeypatch.setattr(system_files, "ROOT", system_files.ROOT / "nowhere")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores() == 1 and machine.memory() is None and machine.caches() == {}
    assert machine.processor()


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/memory.max": "2147483648\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", f"{CGROUP}/memory.max": "max\n"}, 8),
        ({"proc/self/cgroup": "9:memory:/\n", f"{CGROUP}/memory/memory.limit_in_bytes": "9223372036854771712"}, 8),
        ({"proc/self/cgroup": "9:memory:/a\n", f"{CGROUP}/memory/memory.limit_in_bytes": "3221225472"}, 3),
    ],
)
def test_memory_that_a_control_group_allows(fake, files, gib):
    fake(2, {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree: 1 kB\n", **files})
    assert machine.memory() == gib << 30


def test_caches_of_the_first_processor(fake):
    files = {}
    for index, (level, size) in enumerate([("1", "32K"), ("2", "1024K"), ("3", "32M"), ("3", "a lot")]):
        files |= {f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}": text
                  for name, text in (("level", level), ("size", size))}  # fmt: skip
    fake(2, files)
    assert machine.caches() == {2: 1 << 20, 3: 32 << 20}


@pytest.mark.parametrize(
    ("aten", "flags", "limit", "words"),
    [
        ("AVX2", ("avx", "avx2"), "", "AVX2"),
        ("AVX512", ("avx", "avx2", "avx512_f"), "", "AVX-512"),
        ("AVX512", ("avx", "avx512_f", "avx512_bf16"), "", "AVX-512, bf16"),
        ("AVX512", ("avx", "avx512f", "amx_bf16", "amx_tile"), "",
         "AVX-512, of oneDNN AVX-512 and AMX, bf16"),
        ("AVX512", ("avx", "avx2", "avx512_f", "avx512_bf16"), "AVX2",
         "AVX-512, of oneDNN AVX2 (ONEDNN_MAX_CPU_ISA=AVX2)"),
        ("DEFAULT", ("neon", "bf16"), "", "NEON, bf16"),
        ("DEFAULT", ("avx",), "", "no AVX2"),
        ("DEFAULT", (), "", "no AVX2"),
    ],
)  # fmt: skip
def test_instructions_in_words(fake, monkeypatch, aten, flags, limit, words):
    fake(2)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: aten)
    monkeypatch.setattr(native, "_cpu_flags", lambda: set(flags))
    monkeypatch.setattr(native.sys, "platform", "linux")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert machine.instructions() == words


QUOTA = {"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "200000 100000\n"}


def test_threads_are_as_many_as_a_quota_pays_for(fake, threads):
    fake(8, QUOTA)
    machine.fit_threads()
    assert threads[-1] == 2 and machine.threads_text() == "2 threads (of torch's own 8)"
    machine.fit_threads(2)  # nothing of it was torch's choice any more
    assert threads == [8, 2]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_threads_that_somebody_chose_stay(fake, threads, monkeypatch, name):
    fake(8, QUOTA)
    monkeypatch.setenv(name, "8")
    machine.fit_threads()
    assert threads == [8] and f"{name}=8; more than cores, 2" in machine.threads_text()
    monkeypatch.delenv(name)
    threads.append(3)  # torch.set_num_threads
    machine.fit_threads()
    assert threads[-1] == 3


def test_threads_that_fit_are_left_alone(fake, threads):
    fake(16, per_core=2)
    machine.fit_threads()
    assert threads == [8] and machine.threads_text() == "8 threads"
    machine.fit_threads(3)
    assert threads[-1] == 2 and machine.threads_text() == "2 threads (for each of 3 processes)"
    threads[:] = [8]
    machine.fit_threads(100)
    assert threads[-1] == 1


def test_processes_of_one_machine_share_what_the_quota_pays_for(fake, threads, monkeypatch, tmp_path):
    fake(8, {**QUOTA, f"{CGROUP}/cpu.max": "600000 100000"})
    for name in ("join_group", "_meet", "_leave"):
        monkeypatch.setattr(ranks, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(ranks.multiprocessing, "parent_process", lambda: SimpleNamespace(is_alive=lambda: True))
    job = ranks.Job(lambda: None, (), 2, 1, 0, "env://", launching.DEFAULT_TIMEOUT, "cpu", 0.0)
    ranks.run_rank(0, Reports(tmp_path), job)
    assert threads[-1] == 3


def test_the_table_of_a_run_says_cores_instructions_and_threads(fake, threads, monkeypatch):
    fake(8, QUOTA)
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    machine.fit_threads()
    table = collect_env_info()
    assert "2 cores (of 8: a control group allows 2 processors)" in table and machine.instructions() in table
    assert "2 threads (of torch's own 8); waiting: GOMP_SPINCOUNT=77" in table


def test_loader_processes_beyond_the_cores_are_told(fake, caplog, recwarn):
    fake(8, QUOTA)
    with caplog.at_level(logging.WARNING):
        loader = build._loader("train", _Samples(), [[0]], num_workers=16)
    assert loader.num_workers == 16  # as asked for
    assert caplog.messages == [
        "data: 16 loader processes on 2 cores wait for each other; dataloader.train.num_workers=2 fits"
    ]
    assert not recwarn.list
    caplog.clear()
    build._loader("test", _Samples(), [[0]], num_workers=2)
    assert not caplog.messages


class _Samples(torch.utils.data.Dataset):
    seed = 0

    def __len__(self) -> int:
        return 1


PROGRAM = (
    "from detrex_ext import cli; from detrex_ext.cli import waiting; waiting._busy = lambda: {busy}; "
    "cli.run(lambda argv: None); import os; print(os.environ.get('GOMP_SPINCOUNT'))"
)


@pytest.mark.parametrize(
    ("busy", "given", "expected"),
    [
        (True, {}, waiting.SPIN),
        (False, {}, "None"),
        (True, {"GOMP_SPINCOUNT": "5"}, "5"),
        (True, {"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_a_command_on_a_busy_machine_lets_waiting_threads_sleep_unless_somebody_chose(busy, given, expected):
    environment = {k: v for k, v in os.environ.items() if k not in waiting.CHOICES} | given
    program = [sys.executable, "-c", PROGRAM.format(busy=busy)]
    said = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == expected


@pytest.mark.parametrize(
    ("loadavg", "logical", "busy"),
    [
        ("0.10 0.10 0.10 1/345 99\n", 2, False),
        ("0.10 0.10 0.10 3/345 99\n", 2, True),
        ("9.00 9.00 9.00 1/345 99\n", 2, False),  # what ran a minute ago
        ("0.10 0.10 0.10 3/345 99\n", 1, False),  # one thread waits for none
        ("", 2, False),
        ("0.1 0.1 0.1 \u00b2/3 1", 2, False),
        ("0.1 0.1 0.1 /3 1", 2, False),
        (f"0.1 0.1 0.1 {'9' * 5000}/3 1", 2, False),
    ],
)
def test_a_machine_is_busy_where_our_threads_do_not_fit_beside_what_runs(fake, monkeypatch, loadavg, logical, busy):
    fake(logical, {"proc/loadavg": loadavg})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(logical)), raising=False)
    assert waiting._busy() == busy


def test_importing_the_package_changes_no_environment():
    program = "import os; a = dict(os.environ); import detrex_ext, detrex_ext.cli; print(a == dict(os.environ))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "True"
