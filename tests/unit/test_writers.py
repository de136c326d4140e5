"""What a training writes beside its log: the same over a resume and a going back, and whatever fails."""

from __future__ import annotations

import csv
import errno
import json
import logging
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from detrex_ext.checkpoint import RunFolder
from detrex_ext.checkpoint.rewinding import rewind
from detrex_ext.config import load_config
from detrex_ext.engine import CSVWriter, EventWriter, JSONWriter, PeriodicWriter, TensorboardXWriter, TrainerBase
from detrex_ext.engine.boards import WandbWriter, require_wandb
from detrex_ext.engine.events import Appended
from detrex_ext.engine.writing import config_writers
from detrex_ext.errors import UserError
from detrex_ext.runtime import EventStorage, HookBase, get_event_storage


class Fake(ModuleType):
    """Stands for wandb: runs by their id, each with the files of its starts, as (step, values)."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__("wandb")
        self.starts, self.arguments, self.fails_at, self.torn_down = [], [], fails_at, 0

    def Settings(self, **kwargs):
        return kwargs

    def Image(self, image):
        return ("image", image)

    def init(self, **kwargs):
        lines = []
        self.arguments.append(kwargs)
        self.starts.append((kwargs["id"], lines))

        def log(values, step):
            if step == self.fails_at:
                raise ConnectionResetError("Connection lost")
            assert not lines or step > lines[-1][0], "W&B takes steps in their order"
            assert all(isinstance(v, tuple) or math.isfinite(v) for v in values.values())
            lines.append((step, values))

        return SimpleNamespace(id=kwargs["id"], dir="there/files", starting_step=0, log=log, finish=lambda: None)

    def teardown(self):
        self.torn_down += 1


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


class Trainer(TrainerBase):
    """Loss = iteration times a factor, and AP after each tenth; a checkpoint of iteration 29, before its line."""

    def __init__(self, factor=1.0, die_at=None):
        super().__init__()
        self.factor, self.die_at, self.kept = factor, die_at, None

    def run_step(self):
        if self.iter == self.die_at:
            raise KeyboardInterrupt  # no writer is asked to write or closed well
        storage = get_event_storage()
        storage.put_scalar("total_loss", self.factor * self.iter)
        storage.put_scalar("stage0/loss", math.nan if self.iter == 14 else 1.0)
        if self.iter % 10 == 9:
            storage.put_scalar("bbox/AP", float(self.iter), smoothing_hint=False)
        if self.iter == 29:
            self.kept = json.dumps(self.state_dict())


def writers(folder, *kinds):
    made = [JSONWriter(str(RunFolder(folder).metrics))]
    if "csv" in kinds:
        made.append(CSVWriter(str(RunFolder(folder).csv)))
    if "wandb" in kinds:
        made.append(WandbWriter(RunFolder(folder).wandb, str(folder)))
    if "tensorboard" in kinds:
        made.append(TensorboardXWriter(str(folder)))
    return made


def run(folder, kinds, start=0, end=50, state=None, period=15, **kwargs):
    folder.mkdir(exist_ok=True)
    trainer = Trainer(**kwargs)
    trainer.register_hooks([PeriodicWriter(writers(folder, *kinds), period)])
    if state is not None:
        trainer.load_state_dict(json.loads(state))
    try:
        trainer.train(start, end)
    except KeyboardInterrupt:
        pass
    return trainer


@pytest.fixture
def tensorboard(monkeypatch):
    """Files of one second are read in the order of their numbers as text, and processes begin with 0."""
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def events(folder):
    """Scalars as TensorBoard shows them: name -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    seen.Reload()
    return {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


def without_nan(found):
    return {tag: [(s, None if math.isnan(v) else v) for s, v in rows] for tag, rows in found.items()}


@pytest.mark.parametrize("cut", [14, 29, 44], ids=["before the line", "at its line", "after the next"])
def test_a_resumed_run_shows_what_an_uninterrupted_one_does(tmp_path, wandb, tensorboard, cut):
    """The process dies some iterations after its checkpoint of iteration 29, whose line is there or is not."""
    kinds = ["csv", "wandb", "tensorboard"]
    run(tmp_path / "whole", kinds)
    trainer = run(tmp_path / "cut", kinds, die_at=48)
    folder = RunFolder(tmp_path / "cut")
    folder.truncate_metrics(min(cut, 29))  # as going on from the checkpoint does
    run(tmp_path / "cut", kinds, start=30, state=trainer.kept)
    for name in ("metrics.json", "metrics.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    (first, whole), (second, _), (third, rest) = wandb.starts
    assert rest == whole and second == third != first
    assert [step for step, _ in rest] == [9, 14, 29, 39, 44, 49]
    assert without_nan(events(tmp_path / "cut")) == without_nan(events(tmp_path / "whole"))


def test_after_going_back_nothing_of_the_abandoned_part_is_shown(tmp_path, wandb, tensorboard):
    kinds, out = ["csv", "wandb", "tensorboard"], tmp_path / "run"
    trainer = run(out, kinds)
    folder = RunFolder(out)
    for iteration in (29, 49):
        folder.periodic(iteration).write_bytes(b"")
    rewind(folder, folder.periodic(29), 29)
    assert not folder.wandb.exists() and (out / "set_aside/wandb.json").is_file()
    run(out, kinds, start=30, state=trainer.kept, factor=-1.0)
    wanted = [(14, False), (29, False), (44, True), (49, True)]
    rows = [row for row in csv.DictReader(folder.csv.open()) if row["total_loss"]]
    assert [(int(row["iteration"]), float(row["total_loss"]) < 0) for row in rows] == wanted
    assert [(step, value < 0) for step, value in events(out)["total_loss"]] == wanted
    (before, _), (after, lines) = wandb.starts
    assert before != after
    assert [(s, v["total_loss"] < 0) for s, v in lines if "total_loss" in v] == wanted


def test_online_what_the_server_has_is_not_sent_again(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    inner = wandb.init

    def init(**kwargs):
        started = inner(**kwargs)
        started.starting_step = 30 if len(wandb.starts) > 1 else 0
        return started

    wandb.init = init
    trainer = run(tmp_path, ["wandb"])
    RunFolder(tmp_path).truncate_metrics(29)
    run(tmp_path, ["wandb"], start=30, state=trainer.kept)
    assert [step for step, _ in wandb.starts[1][1]] == [39, 44, 49] and wandb.arguments[1]["mode"] == "online"


@pytest.mark.parametrize("text", ["", "[]", '{"id": 3}', '{"id": "../../x"}', '{"id": null}', "\x00", '"id"'])
def test_an_id_that_is_none_is_replaced(tmp_path, wandb, text):
    RunFolder(tmp_path).wandb.write_text(text)
    run(tmp_path, ["wandb"], end=15)
    assert wandb.starts[0][0].isalnum()
    assert json.loads(RunFolder(tmp_path).wandb.read_text()) == {"id": wandb.starts[0][0]}


def test_a_table_of_columns_that_come_later_and_of_odd_names(tmp_path):
    names = ["bbox/AP-a,b", 'bbox/AP-"q"', "bbox/AP-two\nlines", "bbox/AP-größe", "bbox/AP-\udc80"]
    writer = CSVWriter(str(tmp_path / "metrics.csv"))
    writer.begin([])
    with EventStorage() as storage:
        for step, new in enumerate([[], [], names, []]):
            storage.iter = step
            storage.put_scalars(loss=1.5, **dict.fromkeys(new, float(step)), smoothing_hint=False)
            writer.write()
        storage.iter = 4
        storage.put_scalar("loss", math.inf, smoothing_hint=False)
        writer.write()
        writer.write()
    writer.close()
    rows = list(csv.reader((tmp_path / "metrics.csv").open(encoding="utf-8", newline="")))
    assert rows[0] == ["iteration", "loss", *(n.replace("\udc80", "\\udc80") for n in sorted(names))]
    assert [row[:2] for row in rows[1:]] == [["0", "1.5"], ["1", "1.5"], ["2", "1.5"], ["3", "1.5"], ["4", ""]]
    assert [row[2:] for row in rows[1:]] == [[""] * 5, [""] * 5, ["2.0"] * 5, [""] * 5, [""] * 5]


HEADERS = [b"", b"iteration,zeta,total_loss\n1,2,3\n", b"\xff\xfe\x00", b'"open', b"x" * 200_000]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_columns_keep_their_places_over_a_resume(tmp_path, header):
    (tmp_path / "metrics.csv").write_bytes(header)
    writer = CSVWriter(str(tmp_path / "metrics.csv"))
    writer.begin([{"iteration": 3, "total_loss": 2.0, "alpha": None}])
    writer.close()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    first = ["iteration", "zeta", "total_loss"] if b"zeta" in header else ["iteration"]
    assert [row["total_loss"] for row in rows] == ["2.0"] and list(rows[0])[: len(first)] == first


class Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, path, room):
        self.file, self.room = open(path, "ab", buffering=0), room

    def write(self, data):
        taken = self.file.write(data[: self.room])
        self.room -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return taken

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_full_disk_is_told_once_and_no_line_is_lost_when_there_is_room_again(tmp_path, told):
    class Room(HookBase):
        def after_step(self):
            if self.trainer.iter == 30:
                full.room = 10**6

    path = tmp_path / "metrics.json"
    writer = JSONWriter(str(path))
    writer._file._file = full = Full(path, 70)
    trainer = Trainer()
    trainer.register_hooks([Room(), PeriodicWriter([writer, CSVWriter(str(tmp_path / "metrics.csv"))], 5)])
    trainer.train(0, 50)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(4, 50, 5))
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 11
    assert len(told()) == 1 and "JSONWriter failed in iteration" in told()[0] and "No space left" in told()[0]


def test_a_writer_that_fails_ends_no_training(tmp_path, told):
    class Broken(EventWriter):
        calls = 0

        def begin(self, lines):
            pass

        def write(self):
            self.calls += 1
            raise ZeroDivisionError("a fault\nof one's own")

        def close(self):
            raise OSError("again")

    trainer, broken = Trainer(), Broken()
    trainer.register_hooks([PeriodicWriter([broken, JSONWriter(str(tmp_path / "m.json"))], 10)])
    trainer.train(0, 50)
    assert trainer.iter == 50 and broken.calls == 1 and len((tmp_path / "m.json").read_text().splitlines()) == 5
    assert told() == [
        "Broken failed in iteration 9: ZeroDivisionError: a fault; training goes on, nothing more is written there "
        "until the next start"
    ]


def test_the_process_of_wandb_dies(tmp_path, wandb, told):
    wandb.fails_at = 29
    run(tmp_path, ["wandb", "csv"])
    assert [step for step, _ in wandb.starts[0][1]] == [9, 14] and wandb.torn_down == 1
    assert len(told()) == 1 and "WandbWriter failed in iteration 29: ConnectionResetError" in told()[0]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 7


def test_wandb_that_is_not_there_is_told_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed\n  pip install 'detrex_ext\[wandb\]'"):
        require_wandb()
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))  # a folder of wandb's files, where one runs it
    with pytest.raises(UserError, match="not installed"):
        WandbWriter(tmp_path / "id", str(tmp_path))


def test_tensorboard_that_is_not_there_is_told_by_its_extra(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path, ["tensorboard"])
    assert [m for m in caplog.messages if "tensorboard" in m] == [
        "tensorboard is not installed: no event files (pip install 'detrex_ext[tensorboard]')"
    ]


def test_one_option_chooses(tmp_path, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)

    cfg = load_config("small", (), [f"train.output_dir={tmp_path}"])

    def kinds(**chosen):
        cfg.train.writers.update(chosen)
        return [type(writer).__name__.removesuffix("Writer") for writer in config_writers(cfg)]

    assert kinds() == ["CommonMetricPrinter", "JSON", "TensorboardX"]
    assert kinds(tensorboard=False) == ["CommonMetricPrinter", "JSON"]
    all_of_them = ["CommonMetricPrinter", "JSON", "CSV", "Wandb", "TensorboardX"]
    assert kinds(csv=True, wandb=True, tensorboard=True) == all_of_them
    writer = config_writers(cfg)[3]
    with EventStorage():
        writer.begin([])
    given = wandb.arguments[-1]
    assert (given["project"], given["name"], given["mode"]) == ("detrex_ext", tmp_path.name, "offline")
    json.dumps(given["config"])
    assert given["config"]["train"]["log_period"] == cfg.train.log_period


def test_appending_goes_on_where_a_write_was_cut(tmp_path):
    file = Appended(str(tmp_path / "f"))
    file._file = full = Full(tmp_path / "f", 4)
    with pytest.raises(OSError, match="No space"):
        file.write("first\n")
    full.room = 100
    file.write("second\n")
    assert (tmp_path / "f").read_text() == "first\nsecond\n"
