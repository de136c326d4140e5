"""Which of several failures is the reason, when a process counts as lost, and what a busy port says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from detrex_ext.engine import launch, watch
from detrex_ext.engine.failures import Failure, Reports, reason
from detrex_ext.engine.watch import GRACE, Looker, Process
from detrex_ext.errors import JobFailed, UserError

CLOSED = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234\nmore")


class TestReason:
    @pytest.mark.parametrize(
        "error, kind, code",
        [
            (UserError("a"), "user", 2),
            (OSError(28, "No space left on device", "a.pth"), "user", 2),
            (FloatingPointError("a"), "numbers", 1),
            (JobFailed("a"), "lost", 1),
            (CLOSED, "connection", 1),
            (ConnectionError("a"), "connection", 1),
            (RuntimeError("shapes do not fit"), "other", 1),
            (KeyError("connection"), "other", 1),
            (OSError(5000, "?"), "other", 1),
        ],
    )
    def test_kinds(self, error, kind, code):
        failure = Failure.of(error)
        assert (failure.kind, failure.code) == (kind, code)
        assert ("No space" in failure.text) == (getattr(error, "errno", 0) == 28)

    def test_what_follows_from_another_is_not_the_reason(self):
        """Whichever came first."""
        reports = {0: Failure("connection", "closed", 1.0), 1: Failure("user", "bad image", 2.0)}
        error = reason(reports, {0: (10, 1), 1: (11, 2)})
        assert isinstance(error, UserError) and str(error) == "bad image"
        error = reason({0: reports[0]}, {0: (10, 1), 1: (11, -9)}, first=4)
        assert isinstance(error, JobFailed)
        assert str(error).startswith("rank 5 (process 11) was killed by SIGKILL, as the system does")
        assert "SIGSEGV" in str(reason({}, {0: (10, -11)}))
        error = reason({0: reports[0], 1: Failure("other", "Traceback: KeyError", 3.0)}, {0: (10, 1), 1: (11, 1)})
        assert isinstance(error, ProcessRaisedException) and "KeyError" in str(error)
        assert isinstance(reason({0: reports[0]}, {0: (10, 1)}), JobFailed)

    def test_the_first_of_two_of_a_kind(self):
        reports = {0: Failure("numbers", "second", 2.0), 1: Failure("numbers", "first", 1.0)}
        assert str(reason(reports, {})) == "first"

    def test_a_stop_by_a_signal_is_no_failure(self):
        error = reason({}, {0: (10, 143), 1: (11, 143)})
        assert isinstance(error, ProcessExitedException) and error.exit_code == 143
        assert reason({}, {0: (10, 0), 1: (11, 0)}) is None

    def test_reports_are_whole_and_the_first_of_a_rank_counts(self, tmp_path):
        reports = Reports(tmp_path)
        for text in ("first\nü", "second"):
            reports.write(3, Failure("user", text, 1.5))
        assert reports.read() == {3: Failure("user", "first\nü", 1.5)}
        with pytest.raises(SystemExit) as ended, reports.exits(0):
            raise KeyboardInterrupt
        assert ended.value.code == 130 and list(reports.read()) == [3]


class Fake:
    """A process in a state that is set."""

    pid = 7

    def __init__(self, state):
        self.now = state

    def state(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(watch.time, "monotonic", lambda: Clock.now)
    return Clock


class TestLooker:
    def looks(self, looker, clock, seconds, step=0.5):
        """What is found, and after how long."""
        for i in range(int(seconds / step) + 1):
            if found := looker.look():
                return i * step, found[1]
            clock.now += step
        return None

    def test_a_stopped_one_is_lost_after_the_limit(self, clock):
        looker = Looker({1: Fake("stopped")}, 20)
        assert self.looks(looker, clock, 60) == (20.0, "rank 1 (process 7) is stopped since 20 s")
        assert self.looks(Looker({1: Fake("stopped")}, 0), clock, 600) is None

    def test_one_that_is_gone_may_have_ended_well_a_moment_ago(self, clock):
        assert self.looks(Looker({1: Fake("gone")}, 0), clock, 60)[0] == GRACE

    @pytest.mark.parametrize("state", ["running", ""])
    def test_any_other_state_is_none_of_its_business(self, clock, state):
        """A long step, an evaluation, a compilation, a debugger; another machine."""
        assert self.looks(Looker({1: Fake(state)}, 20), clock, 10_000, 4) is None

    def test_a_pause_begins_anew_when_it_is_one_of_several(self, clock):
        process = Fake("stopped")
        looker = Looker({1: process}, 20)
        for _ in range(10):
            assert self.looks(looker, clock, 15) is None
            process.now = "running"
            looker.look()
            process.now = "stopped"

    def test_who_was_stopped_too_does_not_count_that_time(self, clock):
        """As by Ctrl-Z, or a machine that slept."""
        looker = Looker({1: Fake("stopped")}, 20)
        assert looker.look() is None
        clock.now += 3600
        assert looker.look() is None and self.looks(looker, clock, 15) is None


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="states are read from /proc")
class TestProcess:
    def test_states(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            process = Process.of(child.pid)
            assert process.state() == "running"
            for number, state in ((signal.SIGSTOP, "stopped"), (signal.SIGCONT, "running")):
                child.send_signal(number)
                deadline = time.monotonic() + 10
                while process.state() != state and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert process.state() == state
            process.kill()
            deadline = time.monotonic() + 10
            while process.state() != "gone" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert process.state() == "gone", "although nobody has asked for its exit code yet"
        finally:
            child.kill()
            child.wait()
        assert process.state() == "gone"

    def test_one_that_has_its_number_now_is_left_alone(self):
        own = Process.of(os.getpid())
        other = Process(own.machine, own.pid, "1")
        assert other.state() == "gone"
        other.kill()
        assert Process("another machine", own.pid, own.start).state() == ""


class TestPort:
    def test_one_in_use_is_named_on_several_machines(self):
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            with pytest.raises(UserError, match=f"127.0.0.1:{port}: port {port} of this machine is in use\n  give all"):
                launch(print, 1, num_machines=2, dist_url=f"tcp://127.0.0.1:{port}", device="cpu")

    @pytest.mark.parametrize("url", ["tcp://127.0.0.1", "tcp://", "tcp://a:99999", "tcp://a:x", "tcp://[::1"])
    def test_an_address_that_is_none(self, url):
        with pytest.raises(UserError, match="expected tcp://<address of machine 0>:<port>"):
            launch(print, 1, num_machines=2, dist_url=url, device="cpu")


@pytest.mark.parametrize(
    "text, kind",
    [
        ("[gloo] Connection closed by peer [127.0.0.1]", "connection"),
        ("TCPStore is not available", "connection"),
        ("cannot restore what was stored of a superpeer", "other"),  # words in words
    ],
)
def test_a_fault_keeps_its_traceback_though_its_words_look_like_those_of_a_lost_connection(text, kind):
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        failure = Failure.of(error)
    assert failure.kind == kind and ("Traceback" in failure.text) == (kind == "other")
