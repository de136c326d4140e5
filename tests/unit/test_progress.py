"""What a person sees of a training."""

from __future__ import annotations

import io
import logging

import pytest

from detrex_ext.engine import IterationTimer, TrainerBase, setup_logger
from detrex_ext.engine import progress as progress_module
from detrex_ext.engine.hooks import PeriodicWriter
from detrex_ext.engine.progress import ProgressBar, ProgressPrinter, loss_groups
from detrex_ext.engine.writers import CommonMetricPrinter
from detrex_ext.runtime import EventStorage


def test_losses_are_summed_by_what_they_are_of():
    losses = {"loss_class": 1.0, "loss_bbox": 2.0, "loss_giou": 4.0, "loss_class_dn": 8.0, "loss_bbox_dn": 16.0}
    losses |= {"loss_class_enc": 32.0, "loss_bbox_hybrid_recollect": 64.0, "loss_own": 128.0}
    assert loss_groups(losses) == {"main": 135.0, "dn": 24.0, "enc": 32.0, "hybrid_recollect": 64.0}
    assert loss_groups({"loss": 1.0}) == {"main": 1.0}


def stored(**scalars):
    storage = EventStorage(1199)
    with storage:
        storage.put_scalars(**scalars)
    return storage


GROUPS = {f"loss_class_{g}": 1.0 for g in ("enc", "dn", "hybrid", "recollect", "hybrid_recollect", "aux", "group")}
SCALARS = {"total_loss": 9.8123, "loss_class": 2.8123, **GROUPS, "lr": 1e-4, "time": 0.25, "data_time": 0.01}


def test_a_line_has_what_counts_and_fits():
    printer = ProgressPrinter(90000, 8, "bbox/AP")
    short = {name: SCALARS[name] for name in ("total_loss", "loss_class", "loss_class_dn", "lr", "time", "data_time")}
    line = printer.line(stored(**short))
    assert line == (
        "it 1200/90000  loss 9.812  eta 6:10:00  32 im/s (data 4%)  (main 2.81 dn 1)  lr 0.0001"
    )
    assert len("12:34:56  " + printer.line(stored(**SCALARS))) <= 120
    assert printer.line(stored(**SCALARS)).startswith("it 1200/90000  loss 9.812  eta 6:10:00")


def test_a_line_tells_the_last_score_and_the_best():
    storage = EventStorage(0)
    for value in (3.0, 41.26, 40.0):
        storage.put_scalar("bbox/AP", value, smoothing_hint=False)
    assert "AP 40.0 (best 41.3)" in ProgressPrinter(10, 8).line(storage)
    assert "AP" not in ProgressPrinter(10, 8, "bbox/AP50").line(storage)
    assert "AP 40.0 (best 3.0)" in ProgressPrinter(10, 8, mode="min").line(storage)
    storage.put_scalar("bbox/AP", 2.0, smoothing_hint=False)
    assert ProgressPrinter(10, 8, mode="min").line(storage).endswith("AP 2.0")
    storage.put_scalar("bbox/AP", float("nan"), smoothing_hint=False)
    assert ProgressPrinter(10, 8).line(storage).endswith("AP nan (best 41.3)")
    assert ProgressPrinter(10, 8, "none").line(stored(none=float("nan"))).endswith("none nan")


class Steps(TrainerBase):
    def run_step(self):
        self.storage.put_scalars(total_loss=1.0, loss_class=1.0)


@pytest.fixture
def logged(tmp_path, capsys):
    setup_logger(str(tmp_path), name="detrex_ext")
    yield lambda: (capsys.readouterr().out, (tmp_path / "log.txt").read_text())
    logger = logging.getLogger("detrex_ext")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    setup_logger(None, name="detrex_ext", configure_stdout=False)


def test_the_first_steps_are_shown_and_the_long_lines_are_in_the_log(logged):
    trainer = Steps()
    writers = [CommonMetricPrinter(40, only="file"), ProgressPrinter(40, 8)]
    trainer.register_hooks([IterationTimer(), PeriodicWriter(writers, 20)])
    trainer.train(0, 40)
    console, file = logged()
    shown = [line.split()[2] for line in console.splitlines() if "  it " in line]
    assert shown == ["1/40", "2/40", "5/40", "10/40", "20/40", "40/40"]
    assert "iter: " not in console and all(len(line) <= 120 for line in console.splitlines() if "  it " in line)
    assert [line.split("iter: ")[1].split()[0] for line in file.splitlines() if "iter: " in line] == ["19", "39"]
    assert "  it 1/40" not in file


def test_a_bar_moves_from_the_first_step_and_lines_stay_whole(logged, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(progress_module.sys, "stdout", terminal)
    trainer = Steps()
    trainer.register_hooks([ProgressBar(ProgressPrinter(12, 8), 5)])
    trainer.train(2, 12)
    logging.getLogger("detrex_ext").info("a line of the log")
    text = terminal.getvalue()
    assert "2/12" in text and "12/12" in text and "loss 1" in text
    assert text.rstrip().endswith("a line of the log")
