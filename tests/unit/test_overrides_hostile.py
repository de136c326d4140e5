"""Overrides, metrics and consoles that nobody means."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from detrex_ext.checkpoint import RunFolder
from detrex_ext.config import load_config
from detrex_ext.engine import setup_logger, train
from detrex_ext.errors import UserError
from detrex_ext.visualization.curves import read_metrics


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.max_iter=1" + "0" * 5000, "cannot be read: it is too long or too deep"),
        ("train.max_iter=" + "[" * 300, "cannot be read|expected int"),
        ("+train.x=a\0b", "has a NUL character"),
        ("model.backbone.stem.²=3", "unknown key"),
        ("model.backbone.stem.٠=3", "unknown key"),
        ("model.backbone.stem." + "9" * 5000 + "=3", "unknown key"),
        ("+" + ".".join(["a"] * 1500) + "=3", "is no key"),
        *((f"{key}=3", "is no key") for key in ("+train.", "+.x", "+train..y", "+train.a b", "+dataset.\0", "+a\tb")),
    ],
    ids=lambda text: ascii(text[:24]),
)
def test_overrides_that_cannot_be_meant(override, expected):
    with pytest.raises(UserError, match=expected) as error:
        load_config("small", (), [override])
    assert len(str(error.value)) < 12_000


def test_python_without_assertions():
    code = (
        "from detrex_ext.config import load_config; from detrex_ext.errors import UserError\n"
        "try: load_config('small', (), ['++train.x={a: 1}']); print('read')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert "run without -O" in done.stdout or done.stdout == "read\n", done.stderr


def test_a_folder_with_a_nul(tmp_path):
    cfg = load_config("small")
    cfg.train.output_dir = f"{tmp_path}/a\0b"
    with pytest.raises(UserError, match="this folder cannot be made: embedded null byte"):
        train(cfg)


def test_no_standard_output(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    setup_logger(name="detrex_ext.nowhere").warning("said to nobody")
    assert capsys.readouterr().err == ""
    logging.getLogger("detrex_ext.nowhere").handlers.clear()


def test_metrics_that_python_cannot_hold(tmp_path):
    lines = ["[" * 100_000]
    lines += ['{"iteration": 1' + "0" * 5000 + "}", '{"iteration": true, "x": 1}', '{"iteration": -1e400}']
    lines += ['{"iteration": 1, "a": 1, "b": 1' + "0" * 400 + "}", '{"iteration": 2, "a": 2, "b": 3}']
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert read_metrics(tmp_path) == {"a": [(1, 1.0), (2, 2.0)], "b": [(2, 3.0)]}
    assert RunFolder(tmp_path).truncate_metrics(1) == 1
