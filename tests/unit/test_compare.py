"""benchmarks/compare.py: equal time, and the table."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

COMPARE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "compare.py"))
Run, as_long, table = COMPARE["Run"], COMPARE["as_long"], COMPARE["table"]


def run(variant, seed, ap, cpu_s, steps=1000):
    return Run(variant, "quickstart", "", seed, steps, ap, ap + 20, ap + 10, {steps: ap}, cpu_s, 500.0)


def test_as_long_is_the_ratio_of_the_medians():
    bare = [run("bare", 0, 60, 100), run("bare", 1, 60, 110), run("bare", 2, 60, 900)]
    other = [run("+sqr", s, 60, t) for s, t in enumerate((165, 150, 300))]
    assert as_long(bare, other) == 1500


def test_table_has_a_row_for_each_variant_with_all_seeds():
    rows = table([run("bare", 0, 60.04, 100), run("bare", 1, 62, 120), run("+sqr", 0, 64, 150)]).splitlines()
    assert len(rows) == 4
    assert rows[2] == "| bare | 1000 | 61.0 | 60.0, 62.0 | 81.0 | 71.0 | 110 s | 500 |"
    assert rows[3].startswith("| +sqr | 1000 | 64.0 | 64.0 | 84.0")


def test_variants_of_one_and_of_several_configs():
    assert COMPARE["variants"](["quickstart"], "", ["sqr", "sqr,dac"]) == [
        ("bare", "quickstart", ""),
        ("+sqr", "quickstart", "sqr"),
        ("+sqr,dac", "quickstart", "sqr,dac"),
    ]
    assert COMPARE["variants"](["a/dab.py", "dino"], "tiny", ["sqr"]) == [
        ("dab", "a/dab.py", "tiny"),
        ("dab +sqr", "a/dab.py", "tiny,sqr"),
        ("dino", "dino", "tiny"),
        ("dino +sqr", "dino", "tiny,sqr"),
    ]


def test_a_finished_run_is_read_and_not_made_again(tmp_path, monkeypatch):
    import json
    from dataclasses import asdict

    done = run("bare", 3, 61.5, 100)
    (tmp_path / "bare_3").mkdir()
    (tmp_path / "bare_3" / "run.json").write_text(json.dumps(asdict(done)))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("trained again"))
    again = COMPARE["train"](Run("bare", "quickstart", "", 3, None), tmp_path, [])
    assert (again.ap, again.steps, again.cpu_s) == (61.5, 1000, 100)
