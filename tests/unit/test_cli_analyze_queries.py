"""`analyze queries-per-object` on narrow models."""

from __future__ import annotations

import json
import re
import sys

import narrow_run
import pytest
from PIL import Image

from detrex_ext.cli import dispatch

VERB = ["analyze", "queries-per-object"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints; the last periodic one is the final one."""
    names = ("model_0000004", "model_0000009", "model_final")
    return narrow_run.write(tmp_path_factory.mktemp("run"), ("dac",), names)


def test_a_run_gives_table_json_and_curves(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    argv = [*VERB, str(run), "train.max_iter=10", "--thresholds", "0.3,0.1", "--stage", "2"]
    assert dispatch([*argv, "--output", str(tmp_path / "a"), "--json", str(tmp_path / "copy.json")]) == 0
    shown = capsys.readouterr().out
    head = r"queries per object at stage 2, affinity mix, \d+ objects in 3 images\n"
    assert re.search(head + r"checkpoint +stream +> 0.1 +> 0.3 +best\nmodel_0000004.pth +main +\d+\.\d{3}", shown)
    report = json.loads((tmp_path / "copy.json").read_text())
    assert report == json.loads((tmp_path / "a" / "queries.json").read_text())
    assert [(row["iteration"], row["checkpoint"][-15:]) for row in report["checkpoints"]] == [
        (5, "del_0000004.pth"),
        (10, "model_final.pth"),
    ]
    for row in report["checkpoints"]:
        for stream in ("main", "aux", "no_sa"):
            assert len(row["above"][stream]) == len(row["best"][stream]) == 3
            assert all(10 >= low >= high >= 0 for low, high in row["above"][stream])
        assert row["best"]["main"][0] == row["best"]["aux"][0] != row["best"]["no_sa"][0]  # the first stage is shared
    argv += ["--affinity", "mix", "--streams", "main", "--output", str(tmp_path / "b")]
    assert dispatch([*argv, "--beside", str(tmp_path / "copy.json")]) == 0
    with Image.open(tmp_path / "a" / "queries.png") as one, Image.open(tmp_path / "b" / "queries.png") as both:
        assert one.size == both.size and one.width > 3 * one.height  # two thresholds and the best affinity
        assert one.tobytes() != both.tobytes()
    assert dispatch([*argv, "--affinity", "iou", "--beside", str(tmp_path / "copy.json")]) == 2
    assert "out: affinity mix, not iou" in capsys.readouterr().err
    one = f"train.init_checkpoint={run}/model_final.pth"
    assert dispatch([*argv, one, "--beside", str(tmp_path / "copy.json")]) == 2
    assert "out/model_final.pth: curves over checkpoints, not over stages" in capsys.readouterr().err
    assert dispatch([*argv, "--stage", "4", "--beside", str(tmp_path / "copy.json")]) == 2
    assert re.search(r"--stage 4: the decoder of run\d/out has stages 1 to 3", capsys.readouterr().err)


@pytest.mark.parametrize("stage", [0, 4, 9])
def test_a_stage_that_is_not_there_is_refused_at_once(run, tmp_path, monkeypatch, capsys, stage):
    from detrex_ext import engine

    seen = []
    monkeypatch.setattr(engine, "evaluate", lambda cfg, args: seen.append(cfg))
    assert dispatch([*VERB, str(run), "--output", str(tmp_path / "o"), "--stage", str(stage)]) == 2
    assert re.search(rf"--stage {stage}: the decoder of run\d/out has stages 1 to 3", capsys.readouterr().err)
    assert not seen and not (tmp_path / "o").exists()


def test_what_was_counted_before_an_interruption_is_kept(run, tmp_path, monkeypatch, capsys):
    from detrex_ext import engine

    evaluate, seen = engine.evaluate, []

    def interrupted(cfg, args):
        seen.append(cfg.train.init_checkpoint)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return evaluate(cfg, args)

    monkeypatch.setattr(engine, "evaluate", interrupted)
    assert dispatch([*VERB, str(run), "--output", str(tmp_path)]) == 130
    (row,) = json.loads((tmp_path / "queries.json").read_text())["checkpoints"]
    assert row["checkpoint"] == seen[0] and row["objects"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation", "queries.json"]


def test_one_checkpoint_gives_curves_over_stages_where_matplotlib_is(run, tmp_path, capsys, monkeypatch):
    """The auxiliary sets begin where the config says; figures are written before an image fails."""
    argv = [*VERB, str(run), "--output", str(tmp_path), "--streams", "aux,no_sa", "model.strategies.dac.start=init"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert dispatch([*argv, f"train.init_checkpoint={run}/model_0000004.pth"]) == 2
    assert "drawing curves needs matplotlib" in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "queries.json").read_text())["checkpoints"]
    assert row["above"]["aux"] == row["above"]["no_sa"] and row["iteration"] is None


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--thresholds", "60"], "--thresholds 60: expected numbers from 0 to below 1"),
        (["--thresholds", "some"], "--thresholds some: expected"),
        (["--streams", "main,dn"], "--streams main,dn: expected some of main, aux, no_sa"),
        (["--beside", "none.json"], "--beside none.json: not the queries.json of an earlier analysis"),
        (["--beside", __file__], "not the queries.json of an earlier analysis\n  Extra data"),
        ([], "which weights? name them by train.init_checkpoint=PATH"),
    ],
)
def test_bad_input_is_one_message(argv, message, capsys):
    assert dispatch([*VERB, "small", *argv]) == 2
    assert message in capsys.readouterr().err
