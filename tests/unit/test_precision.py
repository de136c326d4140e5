"""The precision that fits the machine."""

from __future__ import annotations

import logging

import pytest
import torch

from detrex_ext.engine.precision import Precision
from detrex_ext.runtime import comm, native

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unheld(monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def flags(monkeypatch, *names, platform="linux"):
    monkeypatch.setattr(native, "_cpu_flags", lambda: set(names))
    monkeypatch.setattr(native.sys, "platform", platform)


@pytest.mark.parametrize(
    ("has", "platform", "bf16", "fp16"),
    [
        (("avx", "avx2", "avx_vnni"), "linux", False, False),
        (("avx", "avx2", "avx512_bf16"), "linux", True, False),
        (("avx", "amx_tile", "amx_int8"), "linux", False, False),
        (("avx", "amx_bf16", "avx512_fp16"), "win32", True, True),
        (("neon", "bf16", "i8mm"), "linux", True, False),
        (("neon", "bf16", "i8mm"), "darwin", False, False),
        ((), "linux", False, False),
    ],
)
def test_by_the_instructions_of_the_processor(monkeypatch, has, platform, bf16, fp16):
    flags(monkeypatch, *has, platform=platform)
    assert (native.half(CPU, "bf16")[0], native.half(CPU, "fp16")[0]) == (bf16, fp16)


@pytest.mark.parametrize(
    ("limit", "bf16"),
    [("AVX2", False), ("AVX512_CORE", False), ("AVX512_CORE_BF16", True), ("avx512_core_amx", True), ("DEFAULT", True)],
)
def test_what_onednn_is_held_to_counts(monkeypatch, limit, bf16):
    flags(monkeypatch, "avx", "avx512_bf16", "amx_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    can, reason = native.half(CPU, "bf16")
    assert can == bf16 and (bf16 or f"ONEDNN_MAX_CPU_ISA={limit.upper()}" in reason)


@pytest.mark.parametrize(
    ("capability", "bf16", "fp16"),
    [((7, 5), False, True), ((8, 0), True, True), ((9, 0), True, True), ((6, 1), False, False)],
)
def test_by_the_compute_capability_of_a_gpu(monkeypatch, capability, bf16, fp16):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    monkeypatch.setattr(torch.version, "hip", None)
    device = torch.device("cuda")
    assert (native.half(device, "bf16")[0], native.half(device, "fp16")[0]) == (bf16, fp16)
    assert native.half(torch.device("mps"), "bf16")[0] is False


def test_flags_without_torchs_table(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(native, "Path", lambda name: tmp_path / name[1:])
    assert native._cpu_flags() == set()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor : 0\nflags\t\t: sse avx avx512_bf16 amx_bf16\n\n")
    assert {"avx", "avx512_bf16", "amx_bf16"} == native._cpu_flags() - {"sse"}


def test_auto_is_what_all_processes_can(monkeypatch):
    flags(monkeypatch, "avx", "avx512_bf16")
    assert Precision("cpu", "auto").name == "bf16"
    monkeypatch.setattr(comm, "all_gather", lambda mine: [mine, (False, "the other cannot")])
    precision = Precision("cpu", "auto")
    assert (precision.name, precision.enabled, precision.reason) == ("fp32", False, "the other cannot")


def test_a_slow_one_is_forced_with_a_warning(monkeypatch, caplog):
    flags(monkeypatch, "avx", "avx2")
    monkeypatch.setattr(native, "ratio", lambda dtype: 38.04)
    with caplog.at_level(logging.INFO):
        Precision("cpu", "auto").log()
    assert caplog.messages == ["precision: fp32 (this processor has no instructions for bf16)"]
    caplog.clear()
    precision = Precision("cpu", True)
    precision.log()
    assert precision.enabled and caplog.records[-1].levelno == logging.WARNING
    assert "bf16 is forced by train.amp.enabled=true" in caplog.messages[-1]
    assert "38.0 times as long as in fp32" in caplog.messages[-1]
    caplog.clear()
    Precision("cpu", False).log()
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


def test_the_measured_ratio_is_one_of_times():
    assert 0.01 < native.ratio("bf16", 0.02) < 1000
