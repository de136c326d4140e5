"""The check of a GPU: what a step may do to its process, what is on disk by then, and what the command answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import gpu_check_steps
import pytest
import torch

from detrex_ext.cli import dispatch, gpu_check
from detrex_ext.cli import run as run_verb
from detrex_ext.errors import UserError
from detrex_ext.gpu_check import (
    failures,
    report,
    resume,
    sampling_cases,
    session,
    steps,
    table,
    timing,
    waits,
    worker,
)
from detrex_ext.gpu_check.same_random import SameRandom
from detrex_ext.gpu_check.table import Case, NotHere, Options, found
from detrex_ext.layers import ms_deform_backends

TABLE = "gpu_check_steps:STEPS"
BY_NAME = {step.name: step for step in gpu_check_steps.STEPS}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(session, "LEAST", 0.05)


def checked(out: Path, *names: str, minutes: float = 1.0, changed=lambda results, one: None) -> dict:
    """Results by name."""
    chosen = [BY_NAME[name] for name in names]
    results = session.Session(chosen, Options("cpu", True), minutes, out, changed, TABLE).run()
    return {result.step.name: result for result in results}


def test_steps_that_hold_share_a_process_and_one_that_fails_costs_its_own_cases(tmp_path):
    found_here = checked(tmp_path, "good", "wrong", "away", "noisy")
    assert [r.state for r in found_here.values()] == ["held", "failed", "not here", "held"]
    rows = found_here["wrong"].rows
    assert [rows[name]["held"] for name in ("before", "false", "raises", "large", "after")] == [
        True, False, False, False, True]  # fmt: skip
    assert rows["raises"]["note"].startswith("RuntimeError: CUDA error: a | b more")
    assert found_here["away"].rows["nowhere"]["note"] == "not here: no such thing on cpu"
    assert found_here["good"].rows["two"]["ms"] == "nan"
    assert (tmp_path / "log.txt").read_text().count("Traceback") == 2


def test_a_crash_costs_its_case_and_a_new_process(tmp_path):
    found_here = checked(tmp_path, "crashes", "good")
    rows = found_here["crashes"].rows
    assert [rows[name]["held"] for name in ("before", "dies", "after")] == [True, False, True]
    assert rows["dies"]["note"] == "the process ended with code 7: the last words"
    assert found_here["crashes"].state == "failed" and found_here["good"].state == "held"


def test_a_step_that_always_crashes_is_given_up(tmp_path):
    found_here = checked(tmp_path, "always_crashes", "not_there", "good")
    assert found_here["always_crashes"].state == "crashed" and len(found_here["always_crashes"].rows) == 3
    assert len(found_here["always_crashes"].document()["without"]) == 6
    assert found_here["not_there"].state == "crashed"
    assert "a library is missing" in found_here["not_there"].note
    assert found_here["good"].state == "held"


def test_a_hang_and_a_slow_step_lose_no_result(tmp_path):
    found_here = checked(tmp_path, "hangs", "slow", "good")
    rows = found_here["hangs"].rows
    assert [rows[name]["held"] for name in ("before", "hangs", "after")] == [True, False, True]
    assert rows["hangs"]["note"] == "no end after 1.5 s" and found_here["hangs"].state == "failed"
    slow = found_here["slow"]
    assert slow.state == "overran" and slow.note == "not through after its 1.5 s" and slow.seconds < 4
    assert slow.rows["0"]["held"] is True and len(slow.rows) < 9
    assert found_here["good"].state == "held"


def test_no_time_is_left(tmp_path):
    began = time.monotonic()
    found_here = checked(tmp_path, "slow", "noisy", minutes=1 / 60)
    assert time.monotonic() - began < 4
    assert (found_here["slow"].state, found_here["slow"].note) == ("overran", "the time of the whole check was over")
    assert found_here["noisy"].state == "left out" and "s were left" in found_here["noisy"].note
    assert not report.held(list(found_here.values()))


def test_the_gpu_stops_answering(tmp_path, monkeypatch):
    """What a kernel did to the GPU is told of the case that launched it, and another process goes on."""
    told = []

    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    sound = worker._run("step", Case("case", lambda: found(True)), lambda event, **values: told.append((event, values)))
    assert not sound and [event for event, _ in told] == ["case", "row"]
    assert told[1][1]["row"]["held"] is False and "illegal memory access" in told[1][1]["row"]["note"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("emptied"))
    assert worker._run("step", Case("case", lambda: found(True)), lambda *a, **k: None) and told[-1] == "emptied"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_workers_end_with_who_waits_for_them(tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
            "from detrex_ext.gpu_check import session; from detrex_ext.gpu_check.table import Options\n"
            "import gpu_check_steps, dataclasses\n"
            "hangs = [dataclasses.replace(s, case_seconds=60) for s in gpu_check_steps.STEPS if s.name == 'hangs']\n"
            f"session.Session(hangs, Options('cpu'), 1, Path({str(tmp_path)!r}), table={TABLE!r}).run()")  # fmt: skip
    pid = tmp_path / "pid"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "GPU_CHECK_PID": str(pid)}
    waiting = subprocess.Popen([sys.executable, "-c", code], env=env)
    until = time.monotonic() + 20
    while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    waiting.send_signal(signal.SIGKILL)
    waiting.wait()
    while Path(f"/proc/{pid.read_text()}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_reports_are_written_as_rows_come(tmp_path):
    seen = []

    def changed(results, one):
        report.write(tmp_path, HEAD, results)
        document = json.loads((tmp_path / "report.json").read_text())
        seen.append((one.step.name, one.state, len(document["steps"][0]["rows"]), document["held"]))

    results = list(checked(tmp_path, "wrong", "good", changed=changed).values())
    assert seen[0] == ("wrong", "running", 1, False) and seen[4] == ("wrong", "running", 5, False)
    assert seen[5][:2] == ("wrong", "failed") and seen[-1][:2] == ("good", "held")
    text = (tmp_path / "report.md").read_text()
    assert "Not all of it holds" in text and "| false " in text and "7 instead of 8" in text
    assert "a \\| b more" in text and "| one " in text and "1.5" in text
    assert not list(tmp_path.glob("*.part"))
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    line = report.line(results[0])
    assert line.splitlines()[0].split()[:2] == ["wrong", "failed"] and "5 cases, 3 wrong" in line
    assert "    false: 7 instead of 8" in line.splitlines()


HEAD = {"command": "python -m detrex_ext doctor --gpu", "began": "now", "device": "cpu"}


def test_many_figures_are_a_list():
    rows = [{"case": "card", "held": None, "note": "n", "seconds": 1.0, **{f"figure_{i}": i for i in range(12)}}]
    assert report._table(rows).startswith("- card: figure 0 0; figure 1 1;") and report._table(rows).endswith("; n")


@pytest.mark.parametrize(
    ("only", "code", "states"),
    [("good,noisy", 0, ["held", "held"]), ("away", 0, ["not here"]), ("good,wrong", 1, ["held", "failed"]),
     ("not_there", 1, ["crashed"])],
)  # fmt: skip
def test_exit_codes(only, code, states, tmp_path, capsys):
    argv = ["--only", only, "--device", "cpu", "--quick", "--out", str(tmp_path / "a" / "b")]
    assert run_verb(lambda argv: gpu_check.main(argv, TABLE), argv) == code
    out = capsys.readouterr().out.splitlines()
    document = json.loads((tmp_path / "a" / "b" / "report.json").read_text())
    assert [step["state"] for step in document["steps"]] == states and document["held"] is (code == 0)
    assert [line.split()[0] for line in out if not line.startswith(" ")][:-1] == only.split(",")
    assert document["command"].startswith("python -m detrex_ext doctor --gpu --only")


def test_cases_are_chosen_by_a_part_of_their_name(tmp_path, capsys):
    argv = ["--only", "good", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert gpu_check.main(argv, TABLE) == 0
    names = [row["case"] for row in json.loads((tmp_path / "report.json").read_text())["steps"][0]["rows"]]
    for part, wanted in ((names[-1], names[-1:]), ("", names)):
        assert gpu_check.main([*argv, "--match", part], TABLE) == 0
        rows = json.loads((tmp_path / "report.json").read_text())["steps"][0]["rows"]
        assert [row["case"] for row in rows] == wanted
    with pytest.raises(UserError, match="no case of good has this in its name"):
        gpu_check.main([*argv, "--match", "not there"], TABLE)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--minutes", "0"], "expected more than 0"), (["--minutes", "nan"], "expected more than 0"),
        (["--minutes", "1e400"], "expected more than 0"), (["--only", "samplin"], "did you mean sampling?"),
        (["--device", "gpu"], "no device that torch can use"), (["--device", "cuda:7"], "GPU"),
        (["--device", "cpu", "--out", __file__], "--out"),
    ],
)  # fmt: skip
def test_what_is_mistyped_ends_in_a_message(argv, words, capsys, monkeypatch):
    monkeypatch.setattr(session, "Session", lambda *args: pytest.fail("it began"))
    assert dispatch(["doctor", "--gpu", *argv]) == 2
    assert words in capsys.readouterr().err


def test_without_a_gpu_there_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dispatch(["doctor", "--gpu"]) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1 and "no GPU" in said.err and "--device cpu" in said.err


def test_help_names_every_step(capsys):
    with pytest.raises(SystemExit) as end:
        dispatch(["doctor", "--gpu", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and all(step.name in out for step in table.STEPS) and "Exit code 0" in out


def test_the_table_names_functions_that_are_there_and_limits_that_are_limits():
    assert len({step.name for step in table.STEPS}) == len(table.STEPS)
    for step in table.STEPS:
        made = table.resolve(step.where)(Options("cpu"))
        names = [case.name for case in made]
        assert names and len(set(names)) == len(names), step.name
        assert len(table.resolve(step.where)(Options("cpu", True))) <= len(made)
        assert 0 < step.case_seconds and 0 < step.seconds < 8 * 60
    assert not any("_" in step.name or " " in step.name for step in table.STEPS)


def test_a_worker_that_waits_imports_no_torch():
    code = "import sys, detrex_ext.gpu_check.session, detrex_ext.gpu_check.worker; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


@pytest.mark.parametrize(
    ("losses", "grads", "half", "words"),
    [
        ((1.0, 2.0), 1.0, 1.0, ""), ((1.0, 2.001), 1.0, 1.0, "loss_b differs by 5.00e-04"),
        ((1.0, float("nan")), 1.0, 1.0, "loss_b differs by nan"), ((1.0, 2.0), 1.01, 1.0, "gradients differ"),
        ((1.0, 2.0), float("nan"), 1.0, "gradients differ by nan, most at w"),
        ((1.0, 2.0), 1.0, float("inf"), "not finite in bf16: w"),
    ],
)  # fmt: skip
def test_a_step_that_differs_is_seen(losses, grads, half, words):
    wanted = ({"loss_a": 1.0, "loss_b": 2.0}, {"v": torch.ones(2), "w": torch.ones(3)})
    got = (dict(zip(("loss_a", "loss_b"), losses, strict=True)), {"v": torch.ones(2), "w": torch.ones(3) * grads})
    row = steps.judged(wanted, got, (wanted[0], {"w": torch.tensor(half)}))
    assert row["held"] is (not words) and words in row["note"]
    assert steps.judged(wanted, (got[0], {}), wanted)["held"] is False


def test_places_that_wait_are_counted_by_the_warnings_of_torch(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with waits.waits() as places:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("another thing", UserWarning, stacklevel=1)
        warnings.warn("a prototype that does not yet detect all synchronizing operations", UserWarning, stacklevel=1)
    assert sum(places.values()) == 2 and modes == ["warn", "default"]
    assert waits.row_of(places, 1)["held"] is False and waits.row_of(places, 1)["waits"] == 2
    assert [waits.row_of(Counter({"a": 1}), allowed)["held"] for allowed in (1, 0)] == [True, False]
    with pytest.raises(NotHere):
        waits.count("DINO R50", (), Options("cpu"))


def test_numbers_are_drawn_on_the_host_whatever_the_device():
    torch.manual_seed(3)
    wanted = [torch.rand(2, 3), torch.randint(9, (4,)), torch.rand(5), torch.zeros(6).bernoulli_(0.5)]
    torch.manual_seed(3)
    with SameRandom():
        away = torch.rand(2, 3, device="meta")
        got = [torch.randint(9, (4,)), torch.rand_like(torch.ones(5)), torch.zeros(6).bernoulli_(0.5)]
    assert away.device.type == "meta" and away.shape == (2, 3)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted[1:], strict=True))


@pytest.mark.parametrize("spoil, word", [
    (lambda outs: [outs[0] * (1 + 1e-3), *outs[1:]], "out"), (lambda outs: [*outs[:3], outs[3][:, :1]], "weight"),
    (lambda outs: [outs[0], outs[1].fill_(float("nan")), *outs[2:]], "value"),
    (lambda outs: [*outs[:2], outs[2].neg(), outs[3]], "at"),
])  # fmt: skip
def test_a_kernel_that_is_wrong_is_seen(spoil, word, monkeypatch):
    sizes, inner = sampling_cases.SIZES["odd maps"], sampling_cases.outcome
    assert sampling_cases.compare("cpu", sizes, "fp32", "cpu")["held"] is True
    monkeypatch.setattr(sampling_cases, "outcome", lambda backend, *args: (
        spoil(inner(backend, *args)) if backend == "cpu" else inner(backend, *args)))  # fmt: skip
    row = sampling_cases.compare("cpu", sizes, "fp32", "cpu")
    assert row["held"] is False and row["note"].startswith(f"{word} is off by")


@pytest.mark.parametrize("case", ["values", "queries"])
def test_a_kernel_that_counts_in_32_bits_is_seen(case, monkeypatch):
    """What lies behind the last number that it can count is read from the front, in small."""
    many = {"values": partial(sampling_cases.many_values, "cpu", "fp32"),
            "queries": partial(sampling_cases.many_queries, "cpu")}[case]  # fmt: skip
    assert many(Options("cpu", True))["held"] is True
    load = ms_deform_backends.load

    def short(name):
        def sample(value, shapes, at, weight):
            if case == "values":
                return load(name)(torch.cat([value[:, :100], value[:, :-100]], 1), shapes, at, weight)
            return load(name)(value, shapes, torch.cat([at[:, :64], at[:, :-64]], 1), weight)

        return sample if name == "cpu" else load(name)

    monkeypatch.setattr(ms_deform_backends, "load", short)
    assert many(Options("cpu", True))["held"] is False


def test_points_that_are_no_numbers(monkeypatch):
    assert sampling_cases.no_numbers("cpu", "fp32", Options("cpu"))["held"] is True
    load = ms_deform_backends.load

    def clamped(value, shapes, at, weight):
        return load("cpu")(value, shapes, at.nan_to_num(0.5, 0.5).clamp(-9, 1), weight)

    monkeypatch.setattr(ms_deform_backends, "load", lambda name: clamped)
    row = sampling_cases.no_numbers("cpu", "fp32", Options("cpu"))
    assert row["held"] is False and "a NaN is gone" in row["note"] and "at infinity reads" in row["note"]


def test_a_resumed_run_is_as_far_as_two_whole_ones():
    whole = torch.ones(10, dtype=torch.float64)
    assert resume.judged(whole, whole, whole) | {"held": True} == resume.judged(whole, whole, whole)
    assert resume.judged(whole, whole, whole + 1e-9)["held"] is False
    assert resume.judged(whole, whole + 1e-9, whole - 2e-9)["held"] is True
    assert resume.judged(whole, whole + 1e-9, whole * float("nan"))["held"] is False


def test_an_overflow_that_never_ends_or_never_was(monkeypatch):
    """The rows of trainings that take no step, and that take the first."""
    monkeypatch.setattr(failures, "_trainer", lambda options, size, precision: Line(precision))
    assert failures.overflowed(Options("cpu", True), 2.0**8)["note"].startswith("the first step was taken")
    row = failures.overflowed(Options("cpu", True), 2.0**120)
    assert row["held"] is False and row["note"].startswith("no step was taken")


class Line:
    """Stands for a trainer: its step overflows above a scale of 2^16."""

    def __init__(self, precision):
        self.precision, self.model = precision, torch.nn.Linear(2, 2)

    def register_hooks(self, hooks):
        self.hooks = hooks

    def train(self, start, end):
        optimizer, scaler = torch.optim.SGD(self.model.parameters(), 0.1), self.precision.scaler
        for _ in range(start, end):
            loss = scaler.scale(self.model(torch.ones(1, 2)).sum())
            loss.backward()
            if scaler.get_scale() > 2**16:
                self.model.weight.grad.fill_(float("inf"))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            for hook in self.hooks:
                hook.after_step()


def test_busy_time_is_what_spans_cover():
    assert timing.busy([(5, 7), (0, 2), (1, 3), (1, 1.5)]) == 5 and timing.busy([]) == 0
