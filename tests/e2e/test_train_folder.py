"""A run folder means the same to all: what goes on from it, loads, evaluates, predicts and analyzes it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time

import pytest
import torch
from PIL import Image
from test_train_resume import before_the_final_save, term_in_step_4
from training import Flags, config, in_process, metrics, overrides, start_process, train

from detrex_ext import load
from detrex_ext.checkpoint import RunFolder, read_checkpoint
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError

KEY = "decoder.class_embed.0.weight"


def verb(*argv):
    torch.set_num_threads(1)
    sys.exit(dispatch(argv))


@pytest.fixture(scope="module")
def longer(shapes_data, tmp_path_factory):
    """A training of 2 steps that was made a longer one and stopped in it: its model_final.pth is its oldest file."""
    out = tmp_path_factory.mktemp("longer")
    assert in_process(train, shapes_data, out, ("train.max_iter=2",)) == 0
    more = ("train.max_iter=400", "train.checkpointer.period=2", "train.checkpointer.max_to_keep=10")
    assert in_process(train, shapes_data, out, more, resume=True, sabotage=term_in_step_4) == 128 + signal.SIGTERM
    assert sorted(p.name for p in out.glob("model_*")) == [
        "model_0000001.pth", "model_0000003.pth", "model_0000004.pth", "model_best.pth", "model_final.pth"
    ]  # fmt: skip
    return out


class TestOneCheckpointForAll:
    def test_loading(self, longer):
        predictor = load(longer, device="cpu")
        assert predictor.source == str(longer / "model_0000004.pth")
        expected = read_checkpoint(longer / "model_0000004.pth")["ema_state"]
        found = predictor.model.state_dict()
        assert found and all(torch.equal(found[k], expected[k]) for k in found)

    def test_predicting(self, longer, tmp_path, capsys):
        Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
        argv = ["predict", str(longer), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
        assert dispatch(argv) == 0
        line = f"weights: {longer}/model_0000004.pth, after 5 iterations, averaged weights\n"
        assert line in capsys.readouterr().out
        assert dispatch([*argv, "--no-average"]) == 0
        assert line.replace("averaged", "trained") in capsys.readouterr().out

    def test_evaluating(self, longer, shapes_data, tmp_path):
        argv = ["train", "--config-file", "small", "--eval-only", *overrides(shapes_data, longer)]
        assert in_process(verb, *argv, "--resume") == 0
        line = f"evaluated: {longer}/model_0000004.pth, after 5 iterations, averaged weights\n"
        assert line in (longer / "evaluation" / "log.txt").read_text()
        argv += [f"train.init_checkpoint={longer}", f"train.output_dir={tmp_path}"]
        assert in_process(verb, *argv) == 0
        assert line in (tmp_path / "evaluation" / "log.txt").read_text()

    def test_analyzing(self, longer, tmp_path):
        pytest.importorskip("matplotlib")
        argv = ["analyze", "queries-per-object", "--config-file", str(longer), "--streams", "main"]
        assert in_process(verb, *argv, "--output", str(tmp_path)) == 0
        rows = json.loads((tmp_path / "queries.json").read_text())["checkpoints"]
        assert [(row["iteration"], os.path.basename(row["checkpoint"])) for row in rows] == [
            (2, "model_final.pth"), (4, "model_0000003.pth"), (5, "model_0000004.pth")
        ]  # fmt: skip

    def test_converting(self, longer, tmp_path):
        assert in_process(verb, "convert", str(longer), str(tmp_path / "a.pth")) == 0
        assert in_process(verb, "convert", str(longer), str(tmp_path / "b.pth"), "--no-average") == 0
        expected = read_checkpoint(longer / "model_0000004.pth")
        assert torch.equal(read_checkpoint(tmp_path / "a.pth")["model"][KEY], expected["ema_state"][KEY])
        assert torch.equal(read_checkpoint(tmp_path / "b.pth")["model"][KEY], expected["model"][KEY])

    def test_going_on(self, longer, shapes_data):
        more = ("train.max_iter=6", "train.checkpointer.period=2")
        assert in_process(train, shapes_data, longer, more, resume=True) == 0
        assert "Starting training from iteration 5" in (longer / "log.txt").read_text()
        assert read_checkpoint(longer / "model_final.pth")["iteration"] == 5
        assert load(longer, device="cpu").source == str(longer / "model_final.pth")


def test_a_resume_where_nothing_is_says_that_it_begins_anew(shapes_data, tmp_path):
    more = ("train.max_iter=1", "train.eval_period=0", "dataset.val_json=''")
    assert in_process(train, shapes_data, tmp_path, more, resume=True) == 0
    told = f"WARNING: --resume: no checkpoint in {tmp_path}: training from the beginning"
    assert told in (tmp_path / "log.txt").read_text()


def test_the_final_file_of_a_shorter_training_does_not_stand_for_a_longer_one(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=2",)) == 0
    more = ("train.max_iter=4",)
    killed = in_process(train, shapes_data, tmp_path, more, resume=True, sabotage=before_the_final_save)
    assert killed == -signal.SIGKILL
    assert in_process(train, shapes_data, tmp_path, more, resume=True) == 0
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 3
    # nor is it replaced by an earlier one where a training is said to be shorter than it was
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=2",), resume=True) == 0
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 3


def waits_in_step_1():
    from detrex_ext.engine import Trainer

    inner = Trainer._forward_backward
    Trainer._forward_backward = lambda self, batch: time.sleep(600) if self.iter == 1 else inner(self, batch)


def test_a_second_training_is_refused_until_the_first_is_gone(shapes_data, tmp_path):
    workers = ("dataloader.train.num_workers=1", "train.max_iter=3", "train.checkpointer.period=1")
    first = start_process(train, shapes_data, tmp_path, workers, sabotage=waits_in_step_1)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "last_checkpoint").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        for more, resume in ((workers, True), ((*workers, "train.overwrite=true"), False)):
            with pytest.raises(UserError, match=rf"another training goes on in it \(process {first.pid} on"):
                train(shapes_data, tmp_path, more, resume)
        assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        argv = ["train", "--config-file", "small", "--eval-only", "--resume", *overrides(shapes_data, tmp_path)]
        assert in_process(verb, *argv) == 0
    finally:
        first.kill()
        first.join()
    assert in_process(train, shapes_data, tmp_path, workers, resume=True) == 0
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 2


def test_a_start_that_fails_leaves_the_old_run_as_it_was(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=2",)) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name not in ("log.txt", ".lock")}
    wrong = ("train.overwrite=true", "train.init_checkpoint=nowhere.pth", "train.max_iter=3")
    assert in_process(train, shapes_data, tmp_path, wrong) == 1
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name not in ("log.txt", ".lock")}


def test_a_run_that_was_moved_is_evaluated_and_gone_on_with_where_it_is(shapes_data, tmp_path):
    """Neither where its config says it was written, nor what it says it started from."""
    assert in_process(train, shapes_data, tmp_path / "old", ("train.max_iter=2",)) == 0
    start = (f"train.init_checkpoint={tmp_path}/old/model_0000001.pth", "train.max_iter=2")
    assert in_process(train, shapes_data, tmp_path / "then", start) == 0
    now = (tmp_path / "then").rename(tmp_path / "now")
    assert in_process(verb, "train", "--config-file", str(now), "--eval-only") == 0
    assert f"evaluated: {now}/model_final.pth, after 2" in (now / "evaluation" / "log.txt").read_text()
    assert in_process(verb, "train", "--config-file", str(now), "--resume", "train.max_iter=3") == 0
    assert read_checkpoint(now / "model_final.pth")["iteration"] == 2
    assert not (tmp_path / "then").exists()


# ---- averages


def score(state) -> float:
    """Stands for AP: differs between trained and averaged weights, and from step to step."""
    return float(state[KEY].double().sum())


def by_weights():
    """Evaluations return the score of the weights that the model holds."""
    from detrex_ext.engine import evaluation, run

    def evaluate(model, loader, evaluator):
        return {"bbox": {"AP": score(model.state_dict())}}

    run.run_evaluation = evaluation.run_evaluation = evaluate


def evaluate_by_weights(path, data, out, *more):
    """`--eval-only`, its score written to a file."""
    from detrex_ext import engine

    by_weights()
    cfg = config(data, out, *more)
    path.write_text(str(engine.evaluate(cfg, Flags())["bbox"]["AP"]))


@pytest.mark.parametrize("average", [pytest.param(None, marks=pytest.mark.slow), True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_evaluated_is_chosen_by_loaded_and_predicted_with(shapes_data, tmp_path, enabled, average):
    out, part = tmp_path / "run", "ema_state" if enabled and average is not False else "model"
    flags = [f"train.model_ema.enabled={str(enabled).lower()}"]
    flags += [] if average is None else [f"train.model_ema.average={str(average).lower()}"]
    more = (*flags, "train.max_iter=6", "train.eval_period=2", "train.checkpointer.max_to_keep=10")
    assert in_process(train, shapes_data, out, more, sabotage=by_weights) == 0

    files = {name: read_checkpoint(out / f"model_{name}.pth") for name in ("0000001", "0000003", "final", "best")}
    assert {data["evaluated"] for data in files.values()} == {part}
    found = {line["iteration"]: line["bbox/AP"] for line in metrics(out) if "bbox/AP" in line}
    scores = {1: score(files["0000001"][part]), 3: score(files["0000003"][part]), 6: score(files["final"][part])}
    assert found == pytest.approx(scores, rel=1e-12)
    assert score(files["best"][part]) == max(scores.values())
    said = "averaged weights are evaluated" if part == "ema_state" else "trained weights are evaluated"
    assert (said in (out / "log.txt").read_text()) == enabled

    for source, data in ((out, files["final"]), (out / "model_final.pth", files["final"]),
                         (out / "model_best.pth", files["best"])):  # fmt: skip
        predictor = load(source, device="cpu")
        assert score(predictor.model.state_dict()) == score(data[part])
        assert predictor.weights.endswith("averaged weights" if part == "ema_state" else "trained weights")
        assert score(load(source, device="cpu", average=False).model.state_dict()) == score(data["model"])
        # the flags of the training, and none: a file states what its training evaluated
        for again in (flags, flags[:1]):
            argv = (shapes_data, tmp_path / "again", *again, f"train.init_checkpoint={source}")
            assert in_process(evaluate_by_weights, tmp_path / "score.txt", *argv) == 0
            assert float((tmp_path / "score.txt").read_text()) == score(data[part])


def test_the_others_are_evaluated_where_the_config_asks_for_them(shapes_data, tmp_path):
    out = tmp_path / "run"
    assert in_process(train, shapes_data, out, ("train.max_iter=2", "train.eval_period=0")) == 0
    argv = (shapes_data, tmp_path / "again", "train.model_ema.average=false", f"train.init_checkpoint={out}")
    assert in_process(evaluate_by_weights, tmp_path / "score.txt", *argv) == 0
    assert float((tmp_path / "score.txt").read_text()) == score(read_checkpoint(out / "model_final.pth")["model"])


def test_what_was_best_by_other_weights_is_not_compared_with(shapes_data, tmp_path):
    """Nor are metrics of other weights taken for those that a resumed run has still to make."""
    first = ("train.model_ema.average=false", "train.max_iter=4", "train.eval_period=2")
    assert in_process(train, shapes_data, tmp_path, first, sabotage=by_weights) == 0
    more = ("train.max_iter=4", "train.eval_period=2")
    assert in_process(train, shapes_data, tmp_path, more, resume=True, sabotage=by_weights) == 0
    final = read_checkpoint(tmp_path / "model_final.pth")
    assert metrics(tmp_path)[-1]["bbox/AP"] == pytest.approx(score(final["ema_state"]), rel=1e-12)
    best = read_checkpoint(tmp_path / "model_best.pth")
    assert (best["evaluated"], score(best["ema_state"])) == ("ema_state", score(final["ema_state"]))
    assert "before, trained weights were evaluated: the best so far is forgotten" in (tmp_path / "log.txt").read_text()


def test_an_average_that_begins_in_the_middle_begins_with_the_weights_of_then(shapes_data, tmp_path):
    off = ("train.model_ema.enabled=false", "train.max_iter=2", "train.eval_period=0")
    assert in_process(train, shapes_data, tmp_path, off) == 0
    before = read_checkpoint(tmp_path / "model_final.pth")["model"][KEY]
    on = ("train.model_ema.decay=0.75", "train.model_ema.warmup=false", "train.max_iter=3", "train.eval_period=0")
    assert in_process(train, shapes_data, tmp_path, on, resume=True) == 0
    after = read_checkpoint(tmp_path / "model_final.pth")
    torch.testing.assert_close(after["ema_state"][KEY], 0.75 * before + 0.25 * after["model"][KEY])


def test_the_folder_is_the_only_thing_that_knows_its_names():
    """Names of its files stand in one module of the package, and in texts for people."""
    package = RunFolder(__file__).path.parents[2] / "detrex_ext"
    known = re.compile(r"[\"'](model_final|model_best|last_checkpoint|metrics\.json|evaluation\.json)[\w.]*[\"']")
    files = [p for p in package.rglob("*.py") if known.search(p.read_text(encoding="utf-8"))]
    assert [p.name for p in files] == ["run_folder.py"]
