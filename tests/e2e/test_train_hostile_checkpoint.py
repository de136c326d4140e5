"""Checkpoints that another hand was in: one message, and nothing of the folder changes."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from training import config, in_process, overrides, train

import detrex_ext
from detrex_ext import engine
from detrex_ext.cli import dispatch
from detrex_ext.errors import UserError

IDS = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def run(shapes_data, tmp_path_factory):
    """The folder of a finished training, and its checkpoint."""
    out = tmp_path_factory.mktemp("run")
    more = ("train.max_iter=2", "train.eval_period=0", "train.checkpointer.period=9")
    assert in_process(train, shapes_data, out, more) == 0
    return out, torch.load(out / "model_final.pth", weights_only=True)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("class_names", 5, "class_names' is int '5', expected a list of texts"),
        ("class_names", "abcd", "class_names' is str"),
        ("class_names", {0: "a"}, "class_names' is dict"),
        ("class_names", torch.ones(4), "class_names' is Tensor"),
        ("class_names", ["a", 2, "c", "d"], "class_names' is list"),
        ("class_names", [None, {}, [], "x"], "class_names' is list"),
        ("category_ids", 7, "category_ids' is int"),
        ("category_ids", ["1"] * 4, "category_ids' is list"),
        ("category_ids", [1], "has 4 class_names, but 1 category_ids"),
        ("evaluated", [1], "evaluated' is list.*expected model or ema_state"),
        ("evaluated", "x", "evaluated' is str 'x'"),
        ("seed", "x", "seed' is str"),
        ("ema_state", 3, "ema_state' is int '3', expected tensors by name"),
    ],
)
def test_what_is_no_value_of_a_training(run, tmp_path, capsys, key, value, expected):
    torch.save({**run[1], key: value}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"checkpoint .*a\.pth: .*{expected}"):
        detrex_ext.load(tmp_path / "a.pth", device="cpu")
    assert dispatch(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]) == 2
    assert "a.pth: it" in capsys.readouterr().err and not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize("value", [None, {}])
def test_what_is_empty_is_not_there(run, tmp_path, value):
    torch.save({**run[1], "ema_state": value, "category_ids": None, "evaluated": None}, tmp_path / "a.pth")
    predictor = detrex_ext.load(tmp_path / "a.pth", device="cpu")
    assert predictor.weights.endswith("trained weights") and predictor.class_names == run[1]["class_names"]
    with pytest.raises(UserError, match="holds no averaged weights"):
        detrex_ext.load(tmp_path / "a.pth", device="cpu", average=True)


def put(path, value):
    """A change of a checkpoint: the value at a path of keys; None of a path takes the key away."""

    def change(data):
        *above, last = path
        for key in above:
            data = data[key]
        data[last] = value

    return change


def other_groups(data):
    groups = data["trainer"]["optimizer"]["param_groups"]
    groups.append(copy.deepcopy(groups[0]))


def other_moments(data):
    moments = data["trainer"]["optimizer"]["state"]
    for one in moments.values():
        one["exp_avg"] = torch.zeros(3, 5, 7)


def average_of_less(data):
    data["ema_state"] = dict(list(data["ema_state"].items())[:5])


CHANGES = {
    "trainer is 3": (put(["trainer"], 3), "its 'trainer' is not the state"),
    "trainer is None": (put(["trainer"], None), "its 'trainer' is not the state"),
    "trainer is empty": (put(["trainer"], {}), "its 'trainer' is not the state"),
    "no trainer": (lambda data: data.pop("trainer"), "holds weights alone, no training to go on with"),
    "iteration is a text": (put(["trainer", "iteration"], "x"), "its 'trainer'.*iteration 'x'"),
    "iteration is negative": (put(["trainer", "iteration"], -7), "its 'trainer'.*iteration '-7'"),
    "iteration is huge": (put(["trainer", "iteration"], 10**30), "its 'trainer'.*iteration"),
    "the best is a text": (put(["trainer", "hooks", "BestCheckpointer", "best"], "x"), "could not convert"),
    "hooks are a list": (put(["trainer", "hooks"], [1]), "its 'trainer' is not the state"),
    "updates are a text": (put(["trainer", "hooks", "EMAHook", "updates"], "x"), "its 'trainer' is not the state"),
    "scalars are a list": (put(["trainer", "scalars"], [1]), "its 'trainer' is not the state"),
    "a scalar is a text": (put(["trainer", "scalars", "lr", "values"], [("x", 1)]), "could not convert"),
    "no groups": (put(["trainer", "optimizer", "param_groups"], []), "its 'trainer' is not the state"),
    "other groups": (other_groups, "its 'trainer' is not the state"),
    "other moments": (other_moments, r"moments of shape \(3, 5, 7\) for a parameter of"),
    "rng is a list": (put(["rng"], [1, 2]), "its 'rng' is not the state"),
    "rng is of torch alone": (put(["rng"], {"ranks": [{"torch": torch.zeros(3, dtype=torch.uint8)}]}), "its 'rng'"),
    "rng is short": (put(["rng", "ranks", 0, "torch"], torch.zeros(3, dtype=torch.uint8)), "its 'rng'"),
    "average of less": (average_of_less, "its 'ema_state' is not the state"),
    "average of another shape": (put(["ema_state", "decoder.class_embed.0.bias"], torch.zeros(9)), "is of shape"),
    "average of texts": (put(["ema_state", "decoder.class_embed.0.bias"], "x"), "'ema_state'.*of shape None"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_going_on(run, shapes_data, tmp_path, name):
    change, expected = CHANGES[name]
    data = copy.deepcopy(run[1])
    change(data)
    torch.save(data, tmp_path / "model_final.pth")
    before = (tmp_path / "model_final.pth").read_bytes()
    state = torch.get_rng_state()
    cfg = config(shapes_data, tmp_path, "train.max_iter=3")
    with pytest.raises(UserError, match=f"(?s)model_final.pth.*{expected}"):
        engine.train(cfg, type("Flags", (), {"resume": True, "config_file": ""})())
    assert (tmp_path / "model_final.pth").read_bytes() == before and not (tmp_path / "metrics.json").exists()
    torch.set_rng_state(state)


def test_an_empty_average_begins_again(run, shapes_data, tmp_path):
    torch.save({**run[1], "ema_state": {}}, tmp_path / "model_final.pth")
    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=3", "train.eval_period=0"), resume=True) == 0
    assert re.search("holds no averaged weights: they begin with the trained", (tmp_path / "log.txt").read_text())


def test_evaluating(run, shapes_data, tmp_path, capsys):
    torch.save({**run[1], "class_names": 5}, tmp_path / "a.pth")
    argv = ["train", "--config-file", "small", "--eval-only", *overrides(shapes_data, tmp_path / "out")]
    assert dispatch([*argv, f"train.init_checkpoint={tmp_path}/a.pth"]) == 2
    assert "expected a list of texts" in capsys.readouterr().err
