"""The pages of docs/extending through a training: as overlays that hold their classes, and with these in a module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import overrides

from detrex_ext.cli import dispatch
from detrex_ext.config import load_config
from detrex_ext.errors import UserError

PAGES = Path(__file__).resolve().parents[2] / "docs" / "extending"
CLASS = {"loss": "NumMatchedQueries", "matcher": "SimOTA", "strategy": "MixedSupervision"}


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (PAGES / f"{name}.md").read_text(encoding="utf-8"), re.DOTALL)


def as_overlay(name: str) -> str:
    """The page down to its ``apply``: what it says about a small model after that is no part of an overlay."""
    text = "\n".join(blocks(name))
    return text[: text.index("return cfg") + len("return cfg")] + "\n"


def command(data: Path, out: Path) -> list[str]:
    short = ["train.max_iter=2", "train.eval_period=0", "train.best_checkpoint.enabled=false", "train.log_period=1"]
    return ["train", "--config-file", "small", "--overlay", "mine.py", *overrides(data, out), *short]


@pytest.mark.parametrize("name", CLASS)
def test_a_page_trains_as_an_overlay_and_says_that_its_config_is_for_reading_only(
    name, shapes_data, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    Path("mine.py").write_text(as_overlay(name), encoding="utf-8")
    assert dispatch(command(shapes_data, tmp_path / "run")) == 0
    log = " ".join((tmp_path / "run" / "log.txt").read_text().split())
    assert f"is for reading only: {CLASS[name]} is defined in mine.py" in log and "module on PYTHONPATH" in log
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "run")
    assert f"{CLASS[name]} was defined in mine.py" in str(error.value) and "_target_=my_parts." in str(error.value)


def test_a_class_in_a_module_is_found_again(shapes_data, tmp_path):
    *classes, overlay = re.split(r"(?=from detrex_ext.runtime import LazyCall)", as_overlay("strategy"), maxsplit=1)
    (tmp_path / "my_parts.py").write_text("".join(classes), encoding="utf-8")
    (tmp_path / "mine.py").write_text("from my_parts import MixedSupervision\n" + overlay, encoding="utf-8")
    start = [sys.executable, "-m", "detrex_ext"]
    env = {**os.environ, "PYTHONPATH": str(PAGES.parents[1]), "OMP_NUM_THREADS": "1"}
    for argv in (command(shapes_data, tmp_path / "run"), ["train", "--config-file", "run", "--resume"]):
        done = subprocess.run([*start, *argv], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "for reading only" not in done.stdout
    assert "my_parts.MixedSupervision" in (tmp_path / "run" / "config.yaml").read_text()
    assert "nothing to train" in done.stdout
