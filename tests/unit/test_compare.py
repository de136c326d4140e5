"""benchmarks/compare.py: equal time, and the table."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
compare, tables, variants = map(importlib.import_module, ("compare", "tables", "variants"))
sys.path.pop(0)
Run, as_long, table = tables.Run, variants.as_long, tables.table


def run(variant, seed, ap, cpu_s, steps=1000):
    return Run(variant, "quickstart", "", seed, steps, ap, ap + 20, ap + 10, {steps: ap}, cpu_s, 500.0)


def test_as_long_is_the_ratio_of_the_medians():
    bare = [run("bare", 0, 60, 100), run("bare", 1, 60, 110), run("bare", 2, 60, 900)]
    other = [run("+sqr", s, 60, t) for s, t in enumerate((165, 150, 300))]
    assert as_long(bare, other) == 1500
    assert as_long(bare, other, 400) == 1600


def test_overlays_of_one_price_share_a_longer_bare_run():
    made = variants.variants(["quickstart"], "tiny", ["sqr", "dac", "group"])
    runs = [run("bare", 0, 60, 100), *(run(f"+{n}", 0, 60, t) for n, t in (("sqr", 141), ("dac", 199), ("group", 146)))]
    runs[0].overlay = "tiny"
    wanted, lines = variants.longer(made, "tiny", runs, 100)
    assert wanted == [
        ("bare, 1500 steps", "quickstart", "tiny train.max_iter=1500"),
        ("bare, 2000 steps", "quickstart", "tiny train.max_iter=2000"),
    ]
    assert lines[2] == "- +group takes the time of bare, 1500 steps"


def test_table_has_a_row_for_each_variant_with_all_seeds():
    rows = table([run("bare", 0, 60.04, 100), run("bare", 1, 62, 120), run("+sqr", 0, 64, 150)]).splitlines()
    assert len(rows) == 4
    assert rows[2] == "| bare | 1000 | 61.0 | 60.0, 62.0 | 81.0 | 71.0 | 110 s | 500 |"
    assert rows[3].startswith("| +sqr | 1000 | 64.0 | 64.0 | 84.0")


def test_variants_of_one_and_of_several_configs():
    assert variants.variants(["quickstart"], "", ["sqr", "sqr,dac"]) == [
        ("bare", "quickstart", ""),
        ("+sqr", "quickstart", "sqr"),
        ("+sqr,dac", "quickstart", "sqr,dac"),
    ]
    assert variants.variants(["a/dab.py", "dino"], "tiny", ["sqr"]) == [
        ("dab", "a/dab.py", "tiny"),
        ("dab +sqr", "a/dab.py", "tiny,sqr"),
        ("dino", "dino", "tiny"),
        ("dino +sqr", "dino", "tiny,sqr"),
    ]


def test_a_finished_run_is_read_and_not_made_again(tmp_path, monkeypatch):
    done = run("bare", 3, 61.5, 100)
    (tmp_path / "bare_3").mkdir()
    (tmp_path / "bare_3" / "run.json").write_text(json.dumps(asdict(done)))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("trained again"))
    again = compare.train(Run("bare", "quickstart", "", 3), tmp_path, [])
    assert (again.ap, again.steps, again.cpu_s) == (61.5, 1000, 100)


def test_a_variant_may_have_a_name_and_overrides():
    made = variants.variants(["quickstart"], "", ["deep: sqr,dac a.b=1 c=[0,1]", "x.y=2", "sqr window=3"])
    assert made[1:] == [
        ("+deep", "quickstart", "sqr,dac a.b=1 c=[0,1]"),
        ("+x.y=2", "quickstart", "x.y=2"),
        ("+sqr window=3", "quickstart", "sqr window=3"),
    ]
    assert [variants.split(overlay) for _, _, overlay in made] == [
        ("", []),
        ("sqr,dac", ["a.b=1", "c=[0,1]"]),
        ("", ["x.y=2"]),
        ("sqr", ["window=3"]),
    ]
    assert variants.variants(["quickstart"], "tiny", ["x.y=2"])[1][2] == "tiny x.y=2"


def test_stages_have_a_table_of_their_own():
    runs = [run("bare", 0, 60, 100), run("+loop", 0, 60, 100), run("+loop", 1, 60, 100)]
    assert tables.stage_table(runs) == ""
    runs[0].stages = {"AP_stage1": 10.0, "TPF": 20.0}
    runs[1].stages = {"AP_stage1": 10.0, "AP_stage2": 30.0, "TPF": 20.0}
    runs[2].stages = {"AP_stage1": 12.0, "AP_stage2": 30.0, "TPF": 20.0}
    rows = tables.stage_table(runs).splitlines()
    assert rows[0] == "| variant | AP_stage1 | AP_stage2 | TPF |"
    assert rows[2:] == ["| bare | 10.0 | - | 20.0 |", "| +loop | 11.0 | 30.0 | 20.0 |"]


def test_weights_are_evaluated_again_under_other_settings(tmp_path, monkeypatch):
    """The figures are those that the evaluation logs; the command asks for no training."""
    seen = []

    def start(command, log):
        seen.append(command)
        log.write_text(
            "[x] copypaste: Task: bbox\n[x] copypaste: AP,AP50,AP75\n[x] copypaste: 41.5000,60.0000,50.0000\n"
        )
        return SimpleNamespace(ru_utime=1.0, ru_stime=0.5, ru_maxrss=2048)

    monkeypatch.setattr(compare, "start", start)
    (tmp_path / "bare_0").mkdir()
    again = compare.evaluate(run("bare", 0, 60, 100), "late", "a=1 b=2", tmp_path)
    assert (again.variant, again.ap, again.ap50, again.ap75, again.cpu_s) == ("bare, late", 41.5, 60.0, 50.0, 1.5)
    assert "--eval-only" in seen[0] and seen[0][-2:] == ["a=1", "b=2"]


def test_queries_are_counted_once_and_have_a_table(tmp_path, monkeypatch):
    """Of the last stage, by stream; the record keeps them."""
    done, seen = run("bare", 0, 60, 100), []
    (tmp_path / "bare_0").mkdir()

    def start(command, log):
        seen.append(command)
        row = {"above": {"main": [[9.0, 9.0], [2.0, 1.0]]}, "best": {"main": [0.1, 0.75]}}
        report = {"thresholds": [0.6, 0.7], "streams": ["main"], "checkpoints": [row]}
        Path(command[command.index("--json") + 1]).write_text(json.dumps(report))

    monkeypatch.setattr(compare, "start", start)
    counted = compare.count(done, tmp_path)
    assert counted.queries == {"main": {"> 0.6": 2.0, "> 0.7": 1.0, "best": 0.75}}
    kept = Run(**json.loads((tmp_path / "bare_0" / "run.json").read_text()))
    assert compare.count(kept, tmp_path).queries == counted.queries and len(seen) == 1
    assert tables.query_table([run("bare", 1, 60, 100)]) == ""
    rows = tables.query_table([counted, run("+dac", 0, 60, 100)]).splitlines()
    assert rows == [
        "| variant | main > 0.6 | main > 0.7 | main best |",
        "|---|---:|---:|---:|",
        "| bare | 2.00 | 1.00 | 0.75 |",
    ]
