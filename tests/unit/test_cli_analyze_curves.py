"""`analyze attention-sparsity` and `analyze matching-stability` on small runs."""

from __future__ import annotations

import json
import re

import narrow_run
import pytest
from PIL import Image

from detrex_ext.cli import dispatch

NAMES = ("model_0000004", "model_0000009", "model_final")
SPARSITY, STABILITY = ["analyze", "attention-sparsity"], ["analyze", "matching-stability"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of DETR with two checkpoints; the last periodic one is the final one."""
    return narrow_run.write(tmp_path_factory.mktemp("run"), (), NAMES, "detr_r50_300ep")


def done(argv, capsys):
    assert dispatch(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_sparsity_of_a_run(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    argv = [*SPARSITY, str(run), "train.max_iter=10", "--json", str(tmp_path / "copy.json")]
    shown = done([*argv, "--output", str(tmp_path / "a")], capsys)
    assert re.search(r"checkpoint +stage +sparsity +size_free +keys\nmodel_0000004.pth +1 +-0\.\d+ +0?\.?\d", shown)
    report = json.loads((tmp_path / "copy.json").read_text())
    assert report == json.loads((tmp_path / "a" / "sparsity.json").read_text())
    assert [row["iteration"] for row in report["checkpoints"]] == [5, 10]
    for row in report["checkpoints"]:
        assert len(row["sparsity"]) == len(row["size_free"]) == 3 and row["images"] == 3
        assert all(v < 0 for v in row["sparsity"]) and all(0 <= v <= 1 for v in row["size_free"])
    done([*argv, "--output", str(tmp_path / "b"), "--beside", str(tmp_path / "a" / "sparsity.json")], capsys)
    one = f"train.init_checkpoint={run}/model_final.pth"
    done([*argv, one, "--output", str(tmp_path / "c")], capsys)
    images = [Image.open(tmp_path / name / "sparsity.png") for name in "abc"]
    assert len({image.tobytes() for image in images}) == 3 and images[0].width > 2 * images[0].height


def test_stability_of_a_run(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    argv = [*STABILITY, str(run), "train.max_iter=10", "--output", str(tmp_path)]
    shown = done(argv, capsys)
    assert re.search(r"model_0000004.pth +1 +- +1\n", shown)
    report = json.loads((tmp_path / "stability.json").read_text())
    first, second = report["checkpoints"]
    assert first["changed"] == [None] * 3 and all(0 < v <= 1 for v in second["changed"])  # of other random weights
    assert first["matched"] == second["matched"] == [1.0] * 3 and second["known_by"] == "index"
    assert first["objects"] == second["objects"] > 0 and (tmp_path / "stability.png").stat().st_size > 1000
    shown = done([*argv, "--beside", str(tmp_path / "stability.json")], capsys)
    assert "curves in" in shown


@pytest.mark.parametrize(
    "host, known_by", [("tsp_fcos_r50_3x", "point"), ("encoder_only_detr_r50", "point"), ("tsp_rcnn_r50_3x", "box")]
)
def test_stability_of_tokens(host, known_by, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = narrow_run.write(tmp_path, (), NAMES[:2], host)
    done([*STABILITY, str(run)], capsys)
    report = json.loads((run / "stability" / "stability.json").read_text())
    assert report["checkpoints"][1]["known_by"] == known_by and len(report["checkpoints"][1]["changed"]) == 1
    assert 0 <= report["checkpoints"][1]["matched"][0] <= 1
    assert dispatch([*SPARSITY, str(run)]) == 2
    assert "does not attend to all tokens of its memory" in capsys.readouterr().err


def test_bad_input_is_one_message(run, tmp_path, capsys):
    one = f"train.init_checkpoint={run}/model_final.pth"
    bad = tmp_path / "bad.json"
    row = {"changed": [0.1], "iteration": 1, "checkpoint": ""}
    bad.write_text(json.dumps({"run": "a", "figures": {"changed": ""}, "checkpoints": [row]}))
    cases = [
        ([*STABILITY, str(run), one], "matches of two checkpoints or more are compared"),
        ([*STABILITY, "small"], "which weights? name them by train.init_checkpoint=PATH"),
        ([*SPARSITY, str(run), "--beside", "none.json"], "--beside none.json: not the sparsity.json of an earlier"),
        ([*SPARSITY, str(run), "--beside", __file__], "not the sparsity.json of an earlier analysis"),
        ([*SPARSITY, str(run), "--beside", str(bad)], "not the sparsity.json of an earlier analysis\n  it has changed"),
        ([*SPARSITY, str(tmp_path / "none")], "none"),
    ]
    for argv, message in cases:
        assert dispatch(argv) == 2, argv
        assert message in capsys.readouterr().err, argv
    for text in ("[]", "{}", '{"run": 1, "figures": {"sparsity": ""}, "checkpoints": [[]]}', "\x00"):
        bad.write_text(text)
        assert dispatch([*SPARSITY, str(run), "--beside", str(bad)]) == 2, text
        assert "not the sparsity.json" in capsys.readouterr().err
