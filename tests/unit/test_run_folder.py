"""What a run folder holds, whose it is, and which of its weights are used."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrex_ext.checkpoint import RunFolder, find_weights
from detrex_ext.checkpoint.weights import evaluated_by, rule
from detrex_ext.config import load_config
from detrex_ext.engine import claim
from detrex_ext.engine.claim import Claim
from detrex_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def write(path, iteration=None, **more):
    stated = {} if iteration is None else {"iteration": iteration}
    torch.save({"model": {"w": torch.full((2,), float(iteration or 0))}, **stated, **more}, path)


class TestCheckpoints:
    def test_each_stands_at_its_own_iteration_whatever_its_name(self, tmp_path, messages):
        """A training of 2 steps that is gone on with: the final one is the oldest."""
        for name, iteration in (("model_final", 1), ("model_0000003", 3), ("model_0000005", 5), ("model_best", 9)):
            write(tmp_path / f"{name}.pth", iteration)
        (tmp_path / "model_0000007.pth").write_bytes(b"half of it")
        names = [(iteration, path.name) for iteration, path in RunFolder(tmp_path).checkpoints()]
        assert names == [(1, "model_final.pth"), (3, "model_0000003.pth"), (5, "model_0000005.pth"),
                         (7, "model_0000007.pth")]  # fmt: skip
        write(tmp_path / "model_final.pth")
        assert "model_final.pth" not in str(RunFolder(tmp_path).checkpoints())
        assert "left out: " in messages.text and "model_final.pth states no iteration" in messages.text

    def test_the_final_one_stands_for_the_last_periodic_one(self, tmp_path):
        for name in ("model_0000003", "model_final"):
            write(tmp_path / f"{name}.pth", 3)
        assert RunFolder(tmp_path).checkpoints() == [(3, tmp_path / "model_final.pth")]

    def test_the_newest_is_the_tagged_one_and_else_the_one_of_most_iterations(self, tmp_path, messages):
        """Times of files say nothing: a copy of a folder may have any."""
        folder = RunFolder(tmp_path)
        assert folder.newest() is None
        write(tmp_path / "model_0000005.pth", 5)
        for name, iteration in (("model_0000003", 3), ("model_final", 1)):
            write(tmp_path / f"{name}.pth", iteration)
        assert folder.newest().path.endswith("model_0000005.pth")
        folder.tag("model_0000003.pth")
        assert folder.newest().path.endswith("model_0000003.pth")
        (tmp_path / "model_0000003.pth").write_bytes(b"half of it")
        assert folder.newest().data["iteration"] == 5
        assert "skipped: checkpoint" in messages.text and "model_0000003.pth: cannot be read" in messages.text
        write(tmp_path / "model_final.pth")  # states none: the end of the training by its name
        assert folder.newest().path.endswith("model_final.pth")

    @pytest.mark.parametrize(
        "named", ["../other/model_final.pth", "{other}/model_final.pth", "..", "", "\udcff\udcfe", "x\0y"]
    )
    def test_a_tag_leads_to_no_other_folder(self, tmp_path, named, messages):
        """And whatever bytes it holds, the checkpoints are found."""
        for folder, iteration in (("other", 9), ("run", 3)):
            (tmp_path / folder).mkdir()
            write(tmp_path / folder / f"model_{'final' if folder == 'other' else '0000003'}.pth", iteration)
        tag = tmp_path / "run" / "last_checkpoint"
        tag.write_bytes(named.format(other=tmp_path / "other").encode(errors="surrogateescape"))
        assert RunFolder(tmp_path / "run").newest().data["iteration"] == 3
        assert "is no file of the folder" in messages.text

    def test_the_best_one_alone_is_not_taken_for_the_run(self, tmp_path):
        write(tmp_path / "model_best.pth", 3)
        with pytest.raises(UserError, match="no checkpoint of a training; it holds model_best.pth\n  name a run"):
            find_weights(tmp_path)
        with pytest.raises(UserError, match="nowhere: no checkpoint of a training; it holds nothing"):
            find_weights(RunFolder(tmp_path / "nowhere"))
        assert find_weights(tmp_path / "model_best.pth").data["iteration"] == 3

    def test_an_iteration_is_read_without_the_tensors(self, tmp_path):
        path = tmp_path / "model_0000001.pth"
        torch.save({"model": {"w": torch.zeros(50_000_000)}, "iteration": 8}, path)
        code = (
            "import resource, sys; from detrex_ext.checkpoint.files import own_iteration\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print(own_iteration(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
        iteration, kib = map(int, done.stdout.split())
        assert iteration == 8 and kib < 50_000, done.stderr


class TestWeights:
    @pytest.mark.parametrize(
        "more, average, part",
        [
            ({}, None, "model"),
            ({}, False, "model"),
            ({"ema_state": {"w": 1}}, None, "ema_state"),
            ({"ema_state": {"w": 1}}, True, "ema_state"),
            ({"ema_state": {"w": 1}}, False, "model"),
            ({"ema_state": {"w": 1}, "evaluated": "model"}, None, "model"),
            ({"ema_state": {"w": 1}, "evaluated": "model"}, True, "ema_state"),
            ({"ema_state": {"w": 1}, "evaluated": "ema_state"}, None, "ema_state"),
            ({"ema_model": {"w": 1}}, None, "model"),
            ({"ema_model": {"w": 1}}, True, "ema_state"),
            ({"evaluated": "ema_state"}, None, "model"),
        ],
    )
    def test_averages_are_taken_where_there_are_any_unless_others_were_evaluated(self, tmp_path, more, average, part):
        write(tmp_path / "model_final.pth", 3, **more)
        for source in (tmp_path, tmp_path / "model_final.pth"):
            assert find_weights(source, average).part == part

    def test_averages_that_are_not_there_are_told(self, tmp_path):
        write(tmp_path / "a.pth", 3)
        with pytest.raises(UserError, match="no averaged weights .'ema_state'.\n  the trained ones: average=False"):
            find_weights(tmp_path / "a.pth", True)

    def test_one_line_says_which_they_are(self, tmp_path, messages):
        write(tmp_path / "model_0000005.pth", 5, ema_state={"w": torch.ones(1)})
        find_weights(tmp_path)
        assert f"weights: {tmp_path}/model_0000005.pth, after 6 iterations, averaged weights" in messages.text
        assert str(find_weights(tmp_path, False)).endswith("trained weights")

    def test_what_was_evaluated_before_is_known_of_older_files_too(self):
        old = {"ema_state": {}, "config": "model_ema: {use_ema_weights_for_eval_only: true}"}
        assert evaluated_by(old) == evaluated_by({"evaluated": "ema_state"}) == "ema_state"
        assert evaluated_by({**old, "config": "use_ema_weights_for_eval_only: false"}) == evaluated_by({}) == "model"
        assert rule(False, "model") == "no averaged weights (train.model_ema.enabled=false)"


    def test_the_former_key_of_a_config_still_says_which(self, tmp_path, messages):
        former = "train.model_ema.use_ema_weights_for_eval_only"
        text = "train: {model_ema: {enabled: true, use_ema_weights_for_eval_only: false}}"
        (tmp_path / "config.yaml").write_text(text)
        for cfg in (load_config("small", (), [f"{former}=false"]), load_config(tmp_path / "config.yaml")):
            assert cfg.train.model_ema.average is False and "use_ema" not in str(cfg)
        assert f"'{former}' is called 'train.model_ema.average' now" in messages.text


class TestMetrics:
    def test_they_are_cut_back_to_the_checkpoint(self, tmp_path):
        folder = RunFolder(tmp_path)
        assert folder.truncate_metrics(3) == 0 and not folder.metrics.exists()
        folder.metrics.write_text('{"iteration": 1, "a": 1}\n{"iteration": 3, "a": 2}\n{"iteration": 5, "a": 3}\n{"it')
        assert folder.truncate_metrics(3) == 2
        assert folder.read_metrics() == [{"iteration": 1, "a": 1}, {"iteration": 3, "a": 2}]
        assert [json.loads(line)["a"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
        assert folder.truncate_metrics(-1) == 0 and folder.metrics.read_text() == ""

    def test_what_others_wrote_into_them_becomes_strict(self, tmp_path):
        folder = RunFolder(tmp_path)
        lines = ['{"iteration": 1, "a": NaN}', '{"iteration": 3, "a": -Infinity}', '{"iteration": 2}']
        lines += ['{"iteration": 3}', '{"iteration": 4, "a": 1e999}', "[4]", '{"iteration": "5"}']
        folder.metrics.write_text("\n".join(lines))
        assert folder.truncate_metrics(9) == 3

        def refuse(constant):
            raise AssertionError(constant)

        found = [json.loads(line, parse_constant=refuse) for line in folder.metrics.read_text().splitlines()]
        assert found == [{"iteration": i, "a": None} for i in (1, 3, 4)]


def claimed(path, resume=False, overwrite=False):
    return Claim(RunFolder(path), resume, overwrite)


class TestClaim:
    def test_a_folder_of_another_run_is_refused_untouched(self, tmp_path):
        (tmp_path / "model_0000004.pth").write_bytes(b"x")
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match="(?s)holds another run: model_0000004.pth.*--resume"):
            claimed(tmp_path).__enter__()
        assert len(list(tmp_path.iterdir())) == 2
        for how in ({"resume": True}, {"overwrite": True}):
            with claimed(tmp_path, **how):
                pass

    def test_a_run_that_came_while_the_lock_was_waited_for_is_seen(self, tmp_path, monkeypatch):
        def come_and_gone(self):
            (tmp_path / "model_0000004.pth").write_bytes(b"x")
            return ""

        monkeypatch.setattr(Claim, "_take", come_and_gone)
        with pytest.raises(UserError, match="holds another run: model_0000004.pth"):
            claimed(tmp_path).__enter__()

    def test_a_lock_that_leads_elsewhere_is_not_written_to(self, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine.txt")
        with pytest.raises(UserError, match="the lock of the folder cannot be opened"):
            claimed(tmp_path / "run").__enter__()
        assert (tmp_path / "mine.txt").read_text() == "mine"

    def test_an_overwritten_run_goes_with_its_lines_of_the_log(self, tmp_path):
        """A logger that has the file open goes on in it; the log of a rank that is no more goes."""
        for name in ("model_0000004.pth", "metrics.json", "events.out.tfevents.1", "log.txt.rank1"):
            (tmp_path / name).write_text("old")
        (tmp_path / "notes.txt").write_text("mine")
        with open(tmp_path / "log.txt", "a", encoding="utf-8") as log:
            print("old run", file=log, flush=True)
            with claimed(tmp_path, overwrite=True) as hold:
                print("new run", file=log, flush=True)
                hold.clear()
            print("goes on", file=log, flush=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "log.txt", "notes.txt"]
        assert (tmp_path / "log.txt").read_text() == "new run\ngoes on\n"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_resumed_run_keeps_its_files(self, tmp_path, overwrite):
        for name in ("model_0000004.pth", "log.txt"):
            (tmp_path / name).write_text("old")
        with claimed(tmp_path, True, overwrite) as hold:
            hold.clear()
        assert {p.name for p in tmp_path.iterdir()} == {".lock", "log.txt", "model_0000004.pth"}

    def test_a_start_that_failed_early_blocks_nothing(self, tmp_path):
        for name in ("config.yaml", "log.txt", "metrics.json"):
            (tmp_path / name).write_text("" if name == "metrics.json" else "x")
        with claimed(tmp_path) as hold:
            hold.clear()
        with claimed(tmp_path / "new" / "deep"):
            pass
        assert {p.name for p in tmp_path.iterdir()} >= {"config.yaml", "log.txt"}

    def test_a_folder_that_cannot_be_made_is_one_message(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="file/run: this folder cannot be made: Not a directory"):
            claimed(tmp_path / "file" / "run").__enter__()


_HOLDER = """
import sys, time, multiprocessing
from detrex_ext.checkpoint import RunFolder
from detrex_ext.engine.claim import Claim
def idle():
    time.sleep(60)
with Claim(RunFolder(sys.argv[1]), True, False):
    worker = multiprocessing.get_context("fork").Process(target=idle)  # as a loader's, which outlives it for a while
    worker.start()
    print(worker.pid, flush=True)
    sys.stdin.read()
    worker.kill()
"""


@pytest.mark.parametrize("name", ["log.txt", "log.txt.rank1", "metrics.json", "metrics.csv"])
def test_nothing_is_appended_to_what_a_link_leads_to(tmp_path, name):
    """A stranger's run may hold one to a file that is read at the next login."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    for resume in (True, False):
        with pytest.raises(UserError, match=f"{name}: expected a file, found a folder, a pipe or a link"):
            claimed(tmp_path / "run", resume, not resume).__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


class TestLock:
    @pytest.mark.parametrize("end", ["kill", "by itself"])
    def test_a_second_training_waits_for_the_first_to_end_and_no_longer(self, tmp_path, end):
        first = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        worker = int(first.stdout.readline())
        try:
            for resume, overwrite in ((True, False), (False, True), (False, False)):
                with pytest.raises(UserError, match=rf"another training goes on in it \(process {first.pid} on "):
                    claimed(tmp_path, resume, overwrite).__enter__()
        finally:
            if end == "kill":
                first.kill()
                first.wait()
            else:
                first.communicate()
        try:
            with claimed(tmp_path):
                assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()
        finally:
            if end == "kill":
                os.kill(worker, signal.SIGKILL)

    def test_a_holder_that_has_just_come_is_named(self, tmp_path):
        """Its name is written after the lock is its own."""
        code = (
            "import fcntl, sys, time\n"
            "lock = open(sys.argv[1], 'a+')\n"
            "fcntl.lockf(lock, fcntl.LOCK_EX)\n"
            "print(flush=True)\n"
            "time.sleep(0.15)\n"
            "print('process 7 on a', file=lock, flush=True)\n"
            "sys.stdin.read()\n"
        )
        argv = [sys.executable, "-c", code, str(tmp_path / ".lock")]
        first = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        first.stdout.readline()
        try:
            with pytest.raises(UserError, match=r"goes on in it \(process 7 on a\)"):
                claimed(tmp_path).__enter__()
        finally:
            first.communicate()
        with claimed(tmp_path):
            pass
        assert (tmp_path / ".lock").read_text() == ""

    def test_it_is_given_back_after_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="told to"), claimed(tmp_path):
            raise ValueError("told to")
        code = _HOLDER.replace("    sys.stdin.read()\n", "")
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60).returncode == 0

    @pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), AttributeError("no fcntl")])
    def test_a_file_system_that_cannot_lock_stops_no_training(self, tmp_path, monkeypatch, messages, error):
        class Failing:
            LOCK_EX = LOCK_NB = 0

            @staticmethod
            def lockf(*_):
                raise error

        monkeypatch.setattr(claim, "fcntl", Failing)
        with claimed(tmp_path):
            pass
        assert "nothing keeps a second training out" in messages.text
