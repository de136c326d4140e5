"""A run that was killed and resumed equals one that was not, to the bit."""

from __future__ import annotations

import shutil
import signal
from functools import partial

import kills
import pytest
from training import MAX_ITER, assert_same_run, die, in_process, metrics, train

from detrex_ext.errors import UserError


@pytest.fixture(scope="module")
def whole(shapes_data, tmp_path_factory):
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert in_process(train, shapes_data, out) == 0
    return out


def before_step():
    """In iteration 5, its predecessors being saved up to 3."""
    from detrex_ext.engine import Trainer

    inner = Trainer._forward_backward
    Trainer._forward_backward = lambda self, batch: die() if self.iter == 5 else inner(self, batch)


def after_step():
    """Weights of iteration 5 are changed, nothing of it is saved."""
    from detrex_ext.engine import EMAHook

    inner = EMAHook.after_step
    EMAHook.after_step = lambda self: die() if self.trainer.iter == 5 else inner(self)


def in_first_save():
    """Half of the first checkpoint is written."""
    _in_save(1)


def in_later_save():
    """Half of the third checkpoint is written."""
    _in_save(3)


def _in_save(number: int):
    import torch

    inner, count = torch.save, []

    def save(data, file, *args):
        count.append(1)
        if len(count) == number:
            file.write(b"half a checkpoint")
            file.flush()
            die()
        inner(data, file, *args)

    torch.save = save


def between_save_and_tag():
    from detrex_ext.checkpoint import Checkpointer

    inner = Checkpointer.tag_last_checkpoint
    Checkpointer.tag_last_checkpoint = lambda self, name: die() if "0005" in name else inner(self, name)


def before_the_final_save():
    """The last iteration is in its periodic checkpoint only."""
    from detrex_ext.checkpoint import Checkpointer

    inner = Checkpointer.save
    Checkpointer.save = lambda self, name, **kw: die() if name == "model_final" else inner(self, name, **kw)


def in_evaluation():
    """The evaluation of iteration 7, which was saved right before."""
    _in_evaluation(2)


def in_last_evaluation():
    """The one after the training, when only the figures are missing."""
    _in_evaluation(3)


def _in_evaluation(number: int):
    from detrex_ext.evaluation import CocoEvaluator

    inner, count = CocoEvaluator.evaluate, []

    def evaluate(self):
        count.append(1)
        return die() if len(count) == number else inner(self)

    CocoEvaluator.evaluate = evaluate


def after_evaluation():
    """Figures of iteration 7 are known, no metrics line has them."""
    from detrex_ext.engine import BestCheckpointer

    inner = BestCheckpointer.after_step
    BestCheckpointer.after_step = lambda self: die() if self.trainer.iter == 7 else inner(self)


def in_metrics():
    """Half of a line of metrics.json is written."""
    from detrex_ext.engine import JSONWriter

    inner, count = JSONWriter.write, []

    def write(self):
        count.append(1)
        if len(count) == 2:
            self._file.write('{"half": ')
            die()
        inner(self)

    JSONWriter.write = write


MOMENTS = [
    before_step,
    after_step,
    in_first_save,
    in_later_save,
    between_save_and_tag,
    before_the_final_save,
    in_evaluation,
    after_evaluation,
    in_last_evaluation,
    in_metrics,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda f: f.__name__)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(moment, shapes_data, whole, tmp_path):
    assert in_process(train, shapes_data, tmp_path, sabotage=moment) == -signal.SIGKILL
    assert in_process(train, shapes_data, tmp_path, resume=True) == 0
    assert_same_run(whole, tmp_path)
    assert not list(tmp_path.glob(".saving-*"))


def test_killed_with_workers(shapes_data, whole, tmp_path):
    workers = ("dataloader.train.num_workers=2",)
    assert in_process(train, shapes_data, tmp_path, workers, sabotage=after_step) == -signal.SIGKILL
    assert in_process(train, shapes_data, tmp_path, workers, resume=True) == 0
    assert_same_run(whole, tmp_path)


def term_in_step_4():
    import os

    from detrex_ext.engine import Trainer

    inner = Trainer._forward_backward

    def step(self, batch):
        if self.iter == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, batch)

    Trainer._forward_backward = step


def test_a_signal_saves_at_the_end_of_the_step(shapes_data, whole, tmp_path):
    assert in_process(train, shapes_data, tmp_path, sabotage=term_in_step_4) == 128 + signal.SIGTERM
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert in_process(train, shapes_data, tmp_path, resume=True) == 0
    assert_same_run(whole, tmp_path)


def signal_in_evaluation(number, evaluation):
    """In the first batch of that evaluation; nothing is predicted after it."""
    import os

    from detrex_ext.evaluation import CocoEvaluator

    reset, process, count = CocoEvaluator.reset, CocoEvaluator.process, []
    evaluation += 1  # it is reset once when it is made

    def counted(self):
        count.append(1)
        reset(self)

    def take(self, *given):
        if len(count) == evaluation:
            count.append(1)
            os.kill(os.getpid(), number)
        elif len(count) > evaluation:
            die()
        process(self, *given)

    CocoEvaluator.reset, CocoEvaluator.process = counted, take


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_in_an_evaluation_does_not_wait_for_its_end(number, shapes_data, whole, tmp_path):
    """The second, of iteration 7."""
    sabotage = partial(signal_in_evaluation, number, 2)
    batches = ("dataloader.test.batch_size=1",)
    assert in_process(train, shapes_data, tmp_path, batches, sabotage=sabotage) == 128 + number
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    assert in_process(train, shapes_data, tmp_path, resume=True) == 0
    assert_same_run(whole, tmp_path)


@pytest.mark.slow
def test_a_signal_in_an_evaluation_saves_what_no_checkpoint_has(shapes_data, tmp_path):
    options = ("train.checkpointer.period=100", "dataloader.test.batch_size=1")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert in_process(train, shapes_data, whole, options) == 0
    for evaluation, name in ((1, "model_0000003.pth"), (2, "model_0000007.pth")):
        sabotage = partial(signal_in_evaluation, signal.SIGTERM, evaluation)
        assert in_process(train, shapes_data, out, options, True, sabotage=sabotage) == 128 + signal.SIGTERM
        assert (out / "last_checkpoint").read_text() == name
    assert in_process(train, shapes_data, out, options, resume=True) == 0
    assert_same_run(whole, out)


def test_a_signal_in_the_evaluation_at_the_end(shapes_data, whole, tmp_path):
    sabotage, batches = partial(signal_in_evaluation, signal.SIGTERM, 3), ("dataloader.test.batch_size=1",)
    assert in_process(train, shapes_data, tmp_path, batches, sabotage=sabotage) == 128 + signal.SIGTERM
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert in_process(train, shapes_data, tmp_path, resume=True) == 0
    assert_same_run(whole, tmp_path)


def two_signals_in_step_4():
    import os
    import time

    from detrex_ext.engine import SignalHook, Trainer

    inner, SignalHook.TOGETHER = Trainer._forward_backward, 0.1

    def step(self, batch):
        for _ in range(2 if self.iter == 4 else 0):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        return inner(self, batch)

    Trainer._forward_backward = step


def test_a_second_signal_ends_at_once(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, sabotage=two_signals_in_step_4) == -signal.SIGTERM
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def test_resuming_a_finished_run_changes_nothing(shapes_data, whole, tmp_path):
    assert in_process(train, shapes_data, tmp_path) == 0
    assert in_process(train, shapes_data, tmp_path, resume=True) == 0
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("average", ["true", "false"])
def test_a_longer_training_keeps_a_better_best(average, shapes_data, tmp_path):
    options = ("train.eval_period=2", f"train.model_ema.average={average}")
    assert in_process(train, shapes_data, tmp_path, (*options, "train.max_iter=3"), sabotage=scores_that_fall) == 0
    first = (tmp_path / "model_best.pth").read_bytes()
    longer = (*options, "train.max_iter=6")
    assert in_process(train, shapes_data, tmp_path, longer, resume=True, sabotage=scores_that_fall) == 0
    assert (tmp_path / "model_best.pth").read_bytes() == first
    log = (tmp_path / "log.txt").read_text()
    assert log.count("best bbox/AP so far: 0.3000 after 3 iterations") == 2


def test_a_training_with_nothing_left_to_train_evaluates(shapes_data, tmp_path):
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=4",)) == 0
    files = {p.name: p.read_bytes() for p in tmp_path.glob("model_*")}
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=2",), resume=True) == 0
    assert "4 of 2 iterations are done: nothing to train" in (tmp_path / "log.txt").read_text()
    assert files == {p.name: p.read_bytes() for p in tmp_path.glob("model_*")}
    assert "bbox/AP" in metrics(tmp_path)[-1]


def scores_that_fall():
    """The AP after 3 iterations is better than before and after it."""
    from detrex_ext.engine import EvalHook

    EvalHook._evaluate_really, at = EvalHook._results, {1: 0.1, 3: 0.3}
    score = lambda self: {"AP": at.get(self.trainer.storage.iter, 0.05)}  # noqa: E731
    EvalHook._results = lambda self, *given: {**self._evaluate_really(*given), "bbox": score(self)}


def test_metrics_are_whole_and_in_order(whole):
    lines = metrics(whole)
    iterations = [line["iteration"] for line in lines]
    assert iterations == sorted(set(iterations)) and iterations[-1] == MAX_ITER
    evaluated = [line["iteration"] for line in lines if "bbox/AP" in line]
    assert evaluated == [3, 7, MAX_ITER]
    assert all("stage0/loss_class" in line for line in lines if "total_loss" in line)


def test_another_run_is_not_written_over(shapes_data, whole):
    before = {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}
    with pytest.raises(UserError, match=r"(?s)holds another run: .*--resume.*train.overwrite=true"):
        train(shapes_data, whole)
    assert before == {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}


def test_a_run_starts_over_from_its_own_weights(shapes_data, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "log.txt.rank1").write_text("of another process")
    again = ("train.overwrite=true", "train.max_iter=2", f"train.init_checkpoint='{out}/model_final.pth'")
    assert in_process(train, shapes_data, out, again) == 0
    assert [line["iteration"] for line in metrics(out)] == [1, 2]
    assert {p.name for p in out.glob("model_*")} == {"model_0000001.pth", "model_best.pth", "model_final.pth"}
    log = (out / "log.txt").read_text()
    assert log.count("Rank of current process") == 1 and "Starting training from iteration 0" in log
    assert not list(out.glob("log.txt.*"))


def test_killed_at_random_moments(shapes_data, tmp_path):
    """Time decides where: at the start, in a step, a save, an evaluation, at the end."""
    training = kills.One(shapes_data, ("train.max_iter=20",))
    assert kills.kill_and_resume(training, tmp_path, 1, 0)[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_two_hundred_random_moments(workers, shapes_data, tmp_path):
    options = (f"dataloader.train.num_workers={workers}", "train.max_iter=20")
    assert kills.kill_and_resume(kills.One(shapes_data, options), tmp_path, 200, workers)[0] == 200


@pytest.mark.slow
def test_two_processes_killed_at_forty_random_moments(shapes_data, tmp_path):
    assert kills.kill_and_resume(kills.Two(shapes_data, ("train.max_iter=20",)), tmp_path, 40, 0)[0] == 40
