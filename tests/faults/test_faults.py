"""The list of faults is sound, and the suite notices each of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("faults_run", Path(__file__).with_name("run.py"))
run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(run)


@pytest.mark.parametrize("fault", run.FAULTS, ids=lambda f: f.name.replace(" ", "-"))
def test_the_text_is_there_once(fault: run.Fault) -> None:
    """A fault that no longer applies would be noticed by nothing, or by everything."""
    text = (run.ROOT / "detrex_ext" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1
    compile(text.replace(fault.old, fault.new), fault.file, "exec")
    assert all((run.ROOT / test).exists() for test in fault.tests)


def test_there_are_ten_and_their_names_differ() -> None:
    assert len({fault.name for fault in run.FAULTS}) == len(run.FAULTS) >= 10


@pytest.mark.slow
def test_every_fault_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main() == 0, capsys.readouterr().out
