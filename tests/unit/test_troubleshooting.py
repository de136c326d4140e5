"""docs/troubleshooting.md: each message that it quotes is what the code says, produced here."""

from __future__ import annotations

import re
import socket
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import reliability
import torch
from data_sets import coco, write
from torch import nn

from detrex_ext.checkpoint import load_state
from detrex_ext.checkpoint.coco import COCO_NAMES
from detrex_ext.cli import dispatch
from detrex_ext.cli.export import _told
from detrex_ext.config import build, load_config
from detrex_ext.data import CocoDataset, check_same_classes
from detrex_ext.engine import launch
from detrex_ext.engine.failures import reason
from detrex_ext.engine.progress import ProgressPrinter
from detrex_ext.engine.setup import batch_line, check_batch
from detrex_ext.engine.trainer import out_of_memory
from detrex_ext.errors import UserError
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.report.causes import find_causes
from detrex_ext.report.folder import RunFacts
from detrex_ext.runtime import EventStorage
from detrex_ext.strategies import Strategy
from detrex_ext.testing import BrokenInvariant, check_strategy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
PRODUCED = {}


def produces(function):
    """Registers what gives the message of its name; a UserError that it ends in is the message."""

    def produce(folder, capsys) -> str:
        try:
            return function(folder, capsys)
        except (UserError, BrokenInvariant) as error:
            return str(error)

    PRODUCED[function.__name__.replace("_", "-")] = produce
    return produce


@produces
def unknown_category(folder, capsys):
    data = coco()
    for annotation in data["annotations"][1:3]:
        annotation["category_id"] = 7
    CocoDataset(write(folder, data, name="val.json"))


@produces
def other_classes(folder, capsys):
    data = coco()
    train = CocoDataset(write(folder, data, name="train.json"))
    data["categories"][0]["name"] = "other"
    check_same_classes(train, CocoDataset(write(folder, data, images=False, name="val.json")))


@produces
def cause(folder, capsys):
    facts = RunFacts("run", config={"optimizer.lr": "10"})
    facts.results = {"bbox": {"AP": 0.1}}
    facts.series = {"total_loss": list(enumerate([20, 300, 4000, 5000]))}
    facts.changed = {"optimizer.lr": ("0.001", "10")}
    (found,) = find_causes(facts, None, None, None)
    return f"likely: {found}"


SIZES = {"dim": 8, "num_heads": 2, "ffn_dim": 8, "dropout": 0.0, "num_layers": 1}


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.decoder = DeformableDecoder(classes, **SIZES, num_levels=1, refine=True)


@produces
def class_rows(folder, capsys):
    mine = ("person", "bolt", "nut", "wire")
    return load_state(Head(4), Head(80).state_dict(), classes=mine, file_classes=COCO_NAMES).full()


@produces
def eval_classes(folder, capsys):
    load_state(Head(4), Head(80).state_dict(), name="model.pth")


@produces
def batch(folder, capsys):
    small = ["dataloader.train.total_batch_size=16", "train.accumulate_steps=8", "train.device=cuda"]
    return batch_line(load_config("deformable_detr_r50_50ep", [], small))


@produces
def does_not_divide(folder, capsys):
    check_batch(load_config("small", [], ["train.accumulate_steps=3"]), 1)


@produces
def memory(folder, capsys):
    raise out_of_memory([{"image": torch.zeros(3, 800, 1333), "instances": range(212)}] * 2, 1200, 1)


@produces
def tolerance(folder, capsys):
    found = SimpleNamespace(scores={"onnx": [0.2, 0.01]}, boxes={"onnx": [0.5, 14.0]}, images=100)
    found.ap = {"torch": 41.2, "onnx": 38.9, "predict": 41.3}
    assert _told(Namespace(tolerance=None), found, {"onnx": Path("model.onnx")}) == 1
    shown = capsys.readouterr()
    return shown.out + shown.err


@produces
def progress(folder, capsys):
    storage = EventStorage(1199)
    with storage:
        losses = {"loss_class": 2.8123, "loss_class_dn": 2.9, "loss_class_recollect": 3.8}
        storage.put_scalars(total_loss=9.5123, **losses, lr=1e-4, time=0.31, data_time=0.01)
    return ProgressPrinter(90000, 16).line(storage)


@produces
def killed(folder, capsys):
    return str(reason({}, {3: (4711, -9)}))


@produces
def port(folder, capsys):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        launch(print, 1, num_machines=2, dist_url=f"tcp://127.0.0.1:{busy.getsockname()[1]}", device="cpu")


@produces
def report(folder, capsys):
    lines = "".join(f'{{"iteration": {i}, "total_loss": {20 - i}}}\n' for i in range(5))
    (folder / "metrics.json").write_text(lines)
    assert dispatch(["report", str(folder), "--no-predictions"]) == 0
    return capsys.readouterr().out


def narrow(*overlays):
    sizes = {"dim": 32, "ffn_dim": 32, "num_layers": 2, "num_queries": 8}
    return build(load_config("detr_r50_300ep", [("tiny", sizes), *overlays], ["model.num_classes=4"]).model, "model")


@produces
def one_kind(folder, capsys):
    narrow("hybrid", "group")


class Unruled(Strategy):
    def after_stage(self, step, history, sets, q):
        return [*sets, *(replace(s, group="other") for s in sets)], q


@produces
def invariant(folder, capsys):
    check_strategy(Unruled(), narrow())


@produces
def mistyped(folder, capsys):
    load_config("small", [], ["train.amp.enable=true"])


QUOTED = re.findall(r"<!-- printed: ([\w-]+) -->\n```text\n(.*?)```", TEXT, re.DOTALL)




def expected(quoted: str) -> str:
    """A pattern of what the page quotes; ``...`` stands for anything."""
    return ".*?".join(map(re.escape, quoted.strip().split("...")))


@pytest.mark.parametrize("name, quoted", QUOTED, ids=[name for name, _ in QUOTED])
def test_a_message_is_what_the_code_says(name, quoted, tmp_path, capsys):
    said = PRODUCED[name](tmp_path, capsys)
    for line in quoted.strip().splitlines():
        assert re.search(expected(line), said), f"{line}\n--- but:\n{said}"


def test_a_message_that_nothing_says_is_found(tmp_path, capsys):
    said = PRODUCED["mistyped"](tmp_path, capsys)
    assert re.search(expected("unknown key 'train....enable'"), said)
    assert not re.search(expected("unknown key 'train...enabel'"), said) and not re.search(expected("a.b"), "axb")


def test_the_ten_complaints_have_messages_and_tests_that_exist():
    sections = re.split(r"^## \d+\. ", TEXT, flags=re.MULTILINE)[1:]
    assert len(sections) == 10 and {name for name, _ in QUOTED} == set(PRODUCED)
    for section in sections:
        title, named = section.splitlines()[0], re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", section)
        assert "<!-- printed: " in section and named, title
        assert not [test for test in named if not reliability.exists(test)], title
