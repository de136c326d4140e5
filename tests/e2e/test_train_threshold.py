"""The threshold of an evaluation in the checkpoints of a training that is killed, resumed and lengthened."""

from __future__ import annotations

import json

import pytest
from training import die, in_process, metrics, train

from detrex_ext import load
from detrex_ext.checkpoint import read_checkpoint
from detrex_ext.cli import dispatch


def known(die_at=None):
    """Each evaluation finds another threshold, by the iteration; optionally the process ends in one of them."""
    from detrex_ext.engine import EvalHook
    from detrex_ext.engine.run import _Run

    def evaluate(self):
        at = self.trainer.storage.iter
        found = {"threshold": at / 100, "F1": 50.0, "duplicates": 3, "threshold-circle": at / 50}
        self.results = {"bbox": {"AP": 10.0 - at}, "bbox_f1": found}
        return self.results

    _Run.evaluate = evaluate
    inner = EvalHook._do_eval
    EvalHook._do_eval = lambda self: die() if self.trainer.storage.iter == die_at else inner(self)


def killed():
    """In the evaluation after 8 iterations."""
    known(die_at=7)


def scores(out):
    """(least score, iteration that it was evaluated after) of each checkpoint."""
    data = {p.stem.removeprefix("model_"): read_checkpoint(p).get("threshold") for p in out.glob("model_*.pth")}
    return {name: found and (found["score"], found["iteration"]) for name, found in data.items()}


EXPECTED = {
    **{"0000001": None, "0000003": None, "0000005": (0.03, 3), "0000007": (0.03, 3), "0000009": (0.07, 7)},
    **{"final": (0.1, 9), "best": (0.03, 3)},
}


@pytest.mark.parametrize("kill", [False, True])
def test_each_checkpoint_has_that_of_the_last_evaluation_before_it(shapes_data, tmp_path, kill, capsys):
    more = ("train.checkpointer.max_to_keep=10",)
    if kill:
        assert in_process(train, shapes_data, tmp_path, more, sabotage=killed) == -9
        assert scores(tmp_path)["0000007"] == (0.03, 3)
    assert in_process(train, shapes_data, tmp_path, more, resume=kill, sabotage=known) == 0
    assert scores(tmp_path) == EXPECTED
    final = read_checkpoint(tmp_path / "model_final.pth")
    assert final["threshold"]["classes"] == {"circle": 0.2} and final["iteration"] == 9
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"]["bbox_f1"]["threshold-circle"] == 0.2
    lines = [line for line in metrics(tmp_path) if "bbox_f1/threshold" in line]
    assert [line["bbox_f1/threshold"] for line in lines] == [0.03, 0.07, 0.1]
    assert lines[0]["bbox_f1/duplicates"] == 3 and not any("circle" in key for line in lines for key in line)
    assert load(tmp_path, device="cpu").threshold.score == 0.1
    assert load(tmp_path / "model_best.pth", device="cpu").threshold.score == 0.03
    image = next((shapes_data / "images").glob("val_*"))
    assert dispatch(["predict", str(tmp_path), str(image), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "threshold: 0.1 (best F1 of the evaluation after 10 iterations)" in capsys.readouterr().out
    # a finished run that is resumed is evaluated anew or read from the file: the final file keeps what it has
    before = (tmp_path / "model_final.pth").read_bytes()
    assert in_process(train, shapes_data, tmp_path, more, resume=True, sabotage=known) == 0
    assert (tmp_path / "model_final.pth").read_bytes() == before


def test_a_real_evaluation_writes_what_it_found(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=2", "train.eval_period=0")) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())["results"]["bbox_f1"]
    kept = read_checkpoint(tmp_path / "model_final.pth").get("threshold")
    assert (found["threshold"] is None) == (kept is None)
    assert kept is None or (kept["score"], kept["F1"]) == (found["threshold"], found["F1"])
    assert {"duplicates", "never_found", "threshold-star"} <= set(found)
