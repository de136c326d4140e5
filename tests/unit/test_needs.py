"""benchmarks/needs.py: rows, cells, and a page that is made in parts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
needs = importlib.import_module("needs")
sys.path.pop(0)


def test_every_row_has_cells_for_all_and_a_command_or_a_reason():
    assert len(needs.NEEDS) == 30 and len({need.key for need in needs.NEEDS}) == 30
    for need in needs.NEEDS:
        assert len(need.others) == len(needs.OTHERS), need.key
        assert need.parts or need.not_run, need.key
        assert all(isinstance(command, str) and "\n\n" not in command for command in need.parts.values()), need.key


@pytest.mark.parametrize("codes, cell", [((0, 0), "yes"), ((0, 2), "partly"), ((1, 2), "no"), ((), "not tried")])
def test_a_cell_is_what_its_commands_ended_with(codes, cell):
    need = needs.NEEDS[0]._replace(not_run="")
    assert needs.answer(need, codes) == cell
    assert needs.answer(need._replace(not_run="none here"), codes) == f"{cell} (none here)"


def test_a_page_is_read_again_but_for_rows_that_have_changed(monkeypatch):
    codes = {need.key: [k % 2 for k in range(len(need.parts))] for need in needs.NEEDS}
    text = needs.page_of(codes)
    assert needs.known(text) == codes and needs.page_of(needs.known(text)) == text
    first, *others = needs.NEEDS
    monkeypatch.setattr(needs, "NEEDS", [first._replace(parts={"other": "true"}), *others])
    assert needs.known(text).keys() == codes.keys() - {first.key}


def test_a_command_ends_with_its_code_and_words(tmp_path):
    assert needs.run("echo $HERE; false | cat; exit 7", tmp_path) == (7, f"{tmp_path}\n")
    assert needs.run("true | false | true", tmp_path)[0] == 1
    assert needs.run("echo $UNSET_ANYWHERE", tmp_path)[0] != 0
    assert needs.run("sleep 5", tmp_path, seconds=1)[0] == 124


def test_the_page_has_every_row_as_it_is_now():
    found = needs.known(needs.PAGE.read_text(encoding="utf-8"))
    assert found.keys() == {need.key for need in needs.NEEDS}, "python benchmarks/needs.py"
