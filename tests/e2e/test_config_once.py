"""A training runs each config file once, whatever the number of processes, and writes config.yaml once."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_train_processes import by_command
from training import in_process, overrides

from detrex_ext.config import load_config

BEFORE = Path(__file__).resolve().parents[1] / "data" / "configs"
FEW = ("train.max_iter=2", "train.eval_period=0", "train.fast_dev_run.enabled=false")
FILE = """
from pathlib import Path

from .base import dataloader, dataset, lr_multiplier, model, optimizer, train

with open({log!r}, "a") as log:
    log.write({name!r} + " ")
{more}
"""
BASE = """
from detrex_ext import get_config

small = get_config("small.py")
dataset, dataloader, model, train = small.dataset, small.dataloader, small.model, small.train
optimizer, lr_multiplier = small.optimizer, small.lr_multiplier
with open({log!r}, "a") as log:
    log.write("base ")
"""


@pytest.fixture
def files(tmp_path):
    """Writes a config that imports another, and gives (its path, where each notes that it was run)."""

    def write(more: str = "") -> tuple[Path, Path]:
        log = tmp_path / "log"
        (tmp_path / "base.py").write_text(BASE.format(log=str(log)))
        (tmp_path / "mine.py").write_text(FILE.format(log=str(log), name="mine", more=more))
        return tmp_path / "mine.py", log

    return write


def train(config, data, out, *more):
    return in_process(by_command, "--config-file", str(config), *overrides(data, out), *FEW, *more)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_file_is_run_once(files, shapes_data, tmp_path, processes):
    config, log = files()
    assert train(config, shapes_data, tmp_path / "out", "--num-gpus", str(processes)) == 0
    assert log.read_text() == "base mine "
    text = (tmp_path / "out" / "log.txt").read_text()
    assert text.count("config.yaml") <= 1
    assert load_config(tmp_path / "out").model.num_classes == 4, "written when it is whole"


@pytest.mark.slow
def test_a_config_with_code_of_its_own_trains_in_many_processes(files, shapes_data, tmp_path):
    config, log = files(
        "def half(name):\n    return 0.5 if 'backbone' in name else 1.0\n\n"
        "optimizer.params.lr_factor_func = half\n"
    )
    assert train(config, shapes_data, tmp_path / "out", "--num-gpus", "2") == 0
    assert log.read_text() == "base mine "
    config, log = files("optimizer.params.lr_factor_func = lambda name: 0.5\n")
    assert train(config, shapes_data, tmp_path / "other", "--num-gpus", "2") == 0


def test_a_config_of_before_trains(shapes_data, tmp_path):
    out = tmp_path / "out"
    assert train(BEFORE / "small.yaml", shapes_data, out) == 0
    assert (out / "model_final.pth").is_file()
    assert train(out, shapes_data, out, "--resume", "train.max_iter=3") == 0
