"""The page of faults is complete: each row names tests that exist, or says why there is none."""

from __future__ import annotations

import pytest
import reliability


def test_there_is_a_row_for_each_fault_in_order():
    assert [row.number for row in reliability.rows()] == [f"F{i}" for i in range(1, 45)]


@pytest.mark.parametrize("row", reliability.rows(), ids=lambda row: row.number)
def test_a_row_says_what_and_names_its_tests(row):
    assert row.there.endswith(".") and row.here.endswith(".")
    assert not row.mistakes()


@pytest.mark.parametrize(
    ("shown", "mistake"),
    [
        ("`tests/unit/test_reliability.py::test_there_is_a_row_for_each_fault_in_order`", ""),
        ("`tests/unit/test_docs.py::test_flags_exist`, `tests/unit/test_docs.py::test_config_keys_exist`", ""),
        ("`tests/unit/test_run_folder.py::TestMetrics::test_they_are_cut_back_to_the_checkpoint`", ""),
        ("there is no such part here, so nothing to test", ""),
        ("`tests/unit/test_reliability.py::test_that_is_none`", "there is no such test"),
        ("`tests/unit/test_run_folder.py::test_they_are_cut_back_to_the_checkpoint`", "there is no such test"),
        ("`tests/unit/test_docs.py::commands`", "there is no such test"),
        ("`tests/unit/test_of_no_file.py::test_x`", "there is no such test"),
        ("`tests/unit/test_docs.py`", "is no test as"),
        ("`tests/unit/test_docs.py::test_flags_exist` and more", "is no test as"),
        ("not yet", "neither a test nor a reason"),
        ("", "neither a test nor a reason"),
    ],
)
def test_a_wrong_row_is_found(shown, mistake):
    (row,) = reliability.rows(f"| | there | here | shown by |\n|---|---|---|---|\n| F7 | a. | b. | {shown} |\n")
    found = "".join(row.mistakes())
    assert (row.there, row.here) == ("a.", "b.") and bool(found) == bool(mistake) and mistake in found


def test_the_command_counts(capsys):
    assert reliability.main(["--what"]) == 2
    assert "--run" in capsys.readouterr().out
    assert reliability.main([]) == 0
    assert capsys.readouterr().out.startswith("44 faults: ")
