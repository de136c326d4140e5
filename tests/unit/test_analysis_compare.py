"""`analyze compare`: time, groups of seeds, mean and spread, hostile runs."""

from __future__ import annotations

import json
import statistics

import pytest
from PIL import Image

from detrex_ext.analysis.compare import read_runs
from detrex_ext.analysis.compare.drawing import mean_curve
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError


def run(folder, aps, seconds=1.0, every=10, config=None):
    """A run that logged every 10 steps and evaluated every so many."""
    folder.mkdir(parents=True)
    steps = range(10, every * len(aps) + 1, 10)
    rows = [{"iteration": i - 1, "total_loss": 9 - i / 99, "time": seconds} for i in steps]
    rows += [{"iteration": every * (i + 1) - 1, "bbox/AP": ap} for i, ap in enumerate(aps)]
    lines = [json.dumps(row) for row in rows]
    (folder / "metrics.json").write_text("\n".join(lines) + '\n{"iteration": 9, "bb', encoding="utf-8")
    if config is not None:
        (folder / "config.yaml").write_text(config.format(folder.name), encoding="utf-8")
    return folder


CONFIG = """\
train: {{seed: {0}, output_dir: /x/{0}}}
model: {{_target_: os.system, k: %d, f: !!python/name:os.getcwd ''}}
"""


@pytest.fixture
def six(tmp_path):
    """Two variants, three seeds; the second's steps take twice the time."""
    bare = [run(tmp_path / f"bare-seed{s}", [10 + s, 20 + s, 30 + s, 29 + s], every=60) for s in range(3)]
    other = [run(tmp_path / f"sqr-seed{s}", [12, 24 + 3 * s, 35 + s, 36 + s], 2.0, every=60) for s in range(3)]
    return [*bare, *other]


def test_figures_of_six_runs(six):
    found = read_runs(six)
    assert list(found.groups) == ["bare", "sqr"] and [len(g) for g in found.groups.values()] == [3, 3]
    assert found.shared_minutes == pytest.approx(4)
    first, last = found.figures(found.runs[0]), found.figures(found.runs[-1])
    assert first == {"last": 29, "best": 30, "in equal time": 29, "steps": 240, "minutes": pytest.approx(4)}
    assert last == {"last": 38, "best": 38, "in equal time": 30, "steps": 240, "minutes": pytest.approx(8)}
    groups = found.to_dict()["groups"]
    values = [24, 27, 30]
    assert groups["sqr"]["in equal time"] == {"mean": 27, "sd": statistics.stdev(values)}
    assert "27.00 ± 3.00" in found.text() and "29.00" in found.text()
    assert found.runs[3].minutes_at(30) == pytest.approx(1) and found.runs[3].minutes_at(999) == pytest.approx(8)


def test_a_run_is_not_cut_short_by_the_jitter_of_its_own_group(tmp_path):
    runs = [run(tmp_path / f"a{s}", [1, 2, 3], 1 + s / 100) for s in range(2)] + [run(tmp_path / "b", [1, 2, 3], 1.5)]
    found = read_runs(runs)
    assert [found.figures(r)["in equal time"] for r in found.runs] == [3, 3, 2]


def test_mean_and_spread_over_the_points_that_all_have():
    x, mean, sd = mean_curve([[(1, 10.0), (2, 20.0), (3, 1.0)], [(1, 14.0), (4, 20.0)]])
    assert (x, mean, sd) == ([1, 3], [12, 20], [pytest.approx(8**0.5), 0])


def test_groups_are_by_config_not_by_name_and_nothing_is_imported(tmp_path):
    runs = [run(tmp_path / name, [1, 2], config=CONFIG % k) for name, k in (("a1", 1), ("zz", 1), ("a2", 2))]
    found = read_runs(runs)
    assert {r.name: r.group for r in found.runs} == {"a1": "a", "zz": "a", "a2": "a2"}
    assert [r.name for r in found.runs] == ["a1", "zz", "a2"]
    (runs[1] / "config.yaml").write_text("[" * 300, encoding="utf-8")  # none that can be read: by their names
    assert {r.name: r.group for r in read_runs(runs).runs} == {"a1": "a", "zz": "zz", "a2": "a"}


def test_the_verb_draws_and_writes(six, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert dispatch(["analyze", "compare", *map(str, six), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["groups"]["bare"]["last"] == {"mean": 30, "sd": 1}
    assert "bare-seed0" in captured.err
    with Image.open(six[0] / "compare.png") as image:
        assert image.width > 3 * image.height
    alone = [str(six[0] / "metrics.json"), "--metric", "total_loss", "--output", str(tmp_path / "x.pdf")]
    assert dispatch(["analyze", "compare", *alone]) == 0
    assert "total_loss" in capsys.readouterr().out and (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_runs_that_cannot_be_compared_end_in_one_message(six, tmp_path, capsys):
    with pytest.raises(UserError, match="named twice"):
        read_runs([six[0], six[0]])
    with pytest.raises(UserError, match="no bbox/APx in its metrics; there are: bbox/AP, total_loss"):
        read_runs(six, "bbox/APx")
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong in (str(empty), str(tmp_path / "none")):
        assert dispatch(["analyze", "compare", str(six[0]), wrong]) == 2
        assert "no metrics.json there" in capsys.readouterr().err
    assert dispatch(["analyze", "compare", str(six[0]), "--output", str(tmp_path / "x.docx")]) == 2
    assert "expected one that ends with" in capsys.readouterr().err
    rows = ['{"iteration": 9, "bbox/AP": NaN, "time": 1}', '{"iteration": 19, "bbox/AP": 5, "time": -1e300}',
            '{"iteration": 9, "time": "x"}', "[1]", '{"iteration": 29, "bbox/AP": 6, "time": 1e400}']  # fmt: skip
    (empty / "metrics.json").write_text("\n".join(rows), encoding="utf-8")
    (only,) = read_runs([empty]).runs
    assert only.metric == [(20, 5.0), (30, 6.0)] and only.minutes[-1][1] == pytest.approx(1 / 6)
    assert read_runs([six[0], empty]).text()


def test_an_evaluation_after_the_last_step_is_of_that_step(tmp_path):
    folder = run(tmp_path / "a", [10, 20])
    with (folder / "metrics.json").open("w", encoding="utf-8") as file:
        step = {"total_loss": 2, "time": 1}
        rows = [{"iteration": 9, **step, "bbox/AP": 5}, {"iteration": 19, **step}, {"iteration": 20, "bbox/AP": 6}]
        file.writelines(json.dumps(row) + "\n" for row in rows)
    found = read_runs([folder])
    assert found.runs[0].metric == [(10, 5.0), (20, 6.0)]
    assert found.figures(found.runs[0])["in equal time"] == 6 and found.runs[0].steps == 20


def test_without_times_there_is_no_equal_time(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.json").write_text('{"iteration": 4, "bbox/AP": 3.0}\n', encoding="utf-8")
    found = read_runs([tmp_path / "a"])
    assert found.shared_minutes is None and found.figures(found.runs[0]) == {"last": 3, "best": 3, "steps": 5}
