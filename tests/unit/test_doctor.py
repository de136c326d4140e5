"""`doctor`: what it says of a machine, and that no machine makes it fail."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from detrex_ext.benchmark import quick
from detrex_ext.cli import dispatch, doctor, doctor_findings
from detrex_ext.cli.doctor_text import text_of
from detrex_ext.layers import ms_deform_backends
from detrex_ext.runtime import machine

ROOT = Path(__file__).resolve().parents[2]


def test_a_report_of_this_machine(tmp_path, capsys):
    assert dispatch(["doctor", "--seconds", "0.001", "--json", str(tmp_path / "a.json")]) == 0
    text, found = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    assert text == text_of(found | {"machine": _int_keys(found["machine"])}) + "\n"
    assert text.endswith("ready to train\n") and found["ready"] is True
    assert f"torch {torch.__version__.partition('+')[0]}" in text and machine.instructions() in text
    row = found["measured"][0]
    assert row["device"] == "cpu" and all(rate > 0 for rate in row["gflops"].values())
    assert row["step"]["precision"] == found["chosen"]["precision"]["cpu"]["name"]
    expected = quick._MORE * row["step"]["seconds"] * row["step"]["steps"] / 60
    assert row["step"]["minutes"] == pytest.approx(expected, abs=0.06)
    assert max(map(len, text.splitlines())) <= 120


def _int_keys(own: dict) -> dict:
    return own | {"caches": {int(level): size for level, size in own["caches"].items()}}


def test_json_on_standard_output_is_json_alone(capsys):
    assert dispatch(["doctor", "--seconds", "0", "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["measured"] == [] and "measured, " not in shown.err and "ready to train" in shown.err


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "61", "1e400"])
def test_seconds_that_are_none(seconds, capsys):
    assert dispatch(["doctor", "--seconds", seconds]) == 2
    assert "expected 0 to 60" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_told_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "look", lambda seconds: pytest.fail("measured first"))
    assert dispatch(["doctor", "--json", str(tmp_path)]) == 2
    assert "expected a file to write" in capsys.readouterr().err


def test_the_names_are_those_of_the_package():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = re.search(r"REQUIRES = \[(.*?)\]", text, re.DOTALL)[1]
    assert set(re.findall(r'"([\w-]+)', block)) == set(doctor_findings.REQUIRED)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'scipy'", name="scipy"), "scipy is not installed: pip install scipy"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "cannot be imported (ModuleNotFoundError"),
        (RuntimeError("operator torchvision::nms does not exist\nmore"), "cannot be imported (RuntimeError: operator"),
        (SystemError(), "cannot be imported (SystemError"),
    ],
)
def test_what_is_needed_and_broken_ends_in_an_error(error, words, monkeypatch, capsys):
    real = importlib.import_module

    def broken(name, *args):
        if name == "scipy":
            raise error
        return real(name, *args)

    monkeypatch.setattr(doctor_findings.importlib, "import_module", broken)
    assert dispatch(["doctor"]) == 1
    text = capsys.readouterr().out
    assert words in text and text.endswith("no training can run here\n") and "more" not in text


def test_a_part_that_fails_takes_no_other_with_it(monkeypatch, capsys):
    monkeypatch.setenv(ms_deform_backends.FORCE, "nonsense")
    assert dispatch(["doctor", "--seconds", "0.001"]) == 1
    text = capsys.readouterr().out
    assert "unknown backend 'nonsense'" in text and machine.processor() in text


def versions(**given: str) -> dict:
    return {"torch": "2.14.1+cpu", "torchvision": "0.29.1", **given}


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({"torch": "2.3.1", "torchvision": "0.18.1"}, "error", "2.4 or newer is needed"),
        ({"torchvision": "0.28.0"}, "warning", "expected torchvision 0.29"),
        ({"torch": "2.14.0a0+git1f", "torchvision": "0.29.0"}, None, ""),
        ({"torch": "unknown", "torchvision": "9" * 5000}, None, ""),
    ],
)
def test_versions_that_do_not_go_together(given, level, words):
    found = doctor_findings._torch(versions(**given))
    assert [finding.level for finding in found] == [level] * (level is not None)
    assert all(words in finding.text for finding in found)


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((10, 3), ["sm_100a", "nonsense"], True),
    ],
)
def test_a_gpu_that_torch_has_no_kernels_for(capability, archs, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
    assert len(doctor_findings._torch(versions())) == (not runs)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory", lambda: 1 << 30, "1.0 GiB of memory"),
        ("threads_text", lambda: "8 threads (OMP_NUM_THREADS=8; more than cores, 2: they wait)", "more than cores, 2"),
    ],
)
def test_a_machine_that_is_too_small(name, value, words, monkeypatch):
    monkeypatch.setattr(machine, name, value)
    assert any(words in finding.text for finding in doctor_findings.combinations(versions()))


def test_shared_memory_of_a_container(monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_frsize=4096, f_blocks=1 << 14), raising=False)
    assert any("/dev/shm holds 64 MiB" in finding.text for finding in doctor_findings.combinations(versions()))


BARE = """
import sys
import portalocker  # of iopath; where there is no fcntl it has another way
sys.modules.update(dict.fromkeys({names}))  # importing None is refused
from detrex_ext.cli import dispatch
sys.exit(dispatch(["doctor", "--seconds", "0.001"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders and locales of Unix")
def test_without_anything_optional_a_home_or_letters(tmp_path):
    names = ["matplotlib", "timm", "tensorboard", "faster_coco_eval", "detectron2", "detrex", "triton", "fcntl",
             "resource"]  # fmt: skip
    where = tmp_path / "closed"
    where.mkdir(0o555)
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "HOME": "/nonexistent", "LC_ALL": "C"}
    environment = {**os.environ, **limits, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    program = BARE.format(names=set(names))
    done = subprocess.run([sys.executable, "-c", program], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready to train" in done.stdout and "ONEDNN_MAX_CPU_ISA=AVX2" in done.stdout
    assert "Traceback" not in done.stderr
