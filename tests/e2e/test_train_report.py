"""The report that a training ends with, and a training on a handful of images."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess

import numpy as np
import pytest
import training
from omegaconf import OmegaConf
from PIL import Image
from reported import EVIL, check_page, run_folder
from torch import nn

from detrex_ext.cli import dispatch
from detrex_ext.config import load_config
from detrex_ext.data import shapes
from detrex_ext.engine import overfit, reporting
from detrex_ext.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def test_a_training_ends_with_a_report(shapes_data, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "LEAST_STEPS", 2)
    more = ("train.max_iter=2", "train.overfit=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0")
    training.train(shapes_data, tmp_path, more)
    page = check_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in ("Confusion", "Worst images", "stage 2", "Sampling points", "What is wrong", "overfit=2: AP 0.0"):
        assert words in page.text, words
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "likely: " in log and "expected more than 90" in log and "report: " in log


def test_what_fails_in_a_report_is_one_line_and_a_trial_has_none(shapes_data, tmp_path, monkeypatch, caplog):
    cfg = training.config(shapes_data, tmp_path)
    with caplog.at_level(logging.INFO):
        for report, steps, told in ((False, 100, 0), (True, 99, 1)):
            cfg.train.report = report
            reporting.report_training(cfg, "", nn.Linear(1, 1), None, steps)
            assert not list(tmp_path.iterdir()) and len(caplog.records) == told
    assert caplog.messages == [f"no report: fewer than 100 steps; python -m detrex_ext report {tmp_path}"]
    caplog.clear()
    reporting.report_training(cfg, "", nn.Linear(1, 1), None, 100)
    assert "Nothing was evaluated" in check_page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    monkeypatch.setattr(reporting, "write_report", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING):
        reporting.report_training(cfg, "", nn.Linear(1, 1), None, 100)
    assert [record.getMessage() for record in caplog.records] == ["no report: ZeroDivisionError: division by zero"]


def test_the_first_images_are_trained_on_and_evaluated(shapes_data, tmp_path):
    cfg = training.config(shapes_data, tmp_path, "train.overfit=3")
    source = OmegaConf.select(cfg, "dataset.train_json")
    overfit.take_few(cfg)
    data = json.loads((tmp_path / "overfit.json").read_text())
    whole = json.loads(open(source, encoding="utf-8").read())
    assert len(data["images"]) == 3 and data["categories"] == sorted(whole["categories"], key=lambda c: c["id"])
    ids = {image["id"] for image in data["images"]}
    assert len(data["annotations"]) == sum(a["image_id"] in ids for a in whole["annotations"]) > 0
    assert cfg.dataset.train_json == cfg.dataset.val_json == str(tmp_path / "overfit.json")
    assert cfg.dataset.val_images == cfg.dataset.train_images == str((shapes_data / "images").resolve())
    train, test = (cfg.dataloader[part].mapper.augmentation for part in ("train", "test"))
    assert train == test
    overfit.take_few(cfg)  # as a resumed run does
    assert json.loads((tmp_path / "overfit.json").read_text()) == data
    cfg.dataset.train_json = ""
    with pytest.raises(UserError, match="overfit=3"):
        overfit.take_few(cfg)


@pytest.mark.slow
def test_a_small_config_learns_eight_images_by_heart(tmp_path):
    shapes.write(tmp_path, 12, 4, 128, 0)
    places = training.narrow.overrides(tmp_path, tmp_path / "run")[len(training.narrow.NARROW) :]
    more = ["train.overfit=8", "train.max_iter=300", "train.seed=0", "train.eval_period=300", "dataset.short_edge=128",
            "dataset.long_edge=128", "dataloader.train.num_workers=0"]  # fmt: skip
    from detrex_ext import engine

    engine.train(load_config("small", (), [*places, *more]), training.Flags())
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]["bbox"]["AP"] > 90
    page = check_page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "data, losses and model are sound" in page.text and "What is wrong" not in page.text
    assert dispatch(["report", str(tmp_path / "run"), "--output", str(tmp_path / "again.html")]) == 0
    again = check_page((tmp_path / "again.html").read_text(encoding="utf-8"))
    assert "Sampling points" in again.text and "By class, the lowest AP first" in again.text


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no browser is installed")
def test_a_browser_shows_the_page_and_runs_nothing_of_it(tmp_path):
    run = run_folder(tmp_path)
    assert dispatch(["report", str(run), "--no-predictions"]) == 0
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    places = [f"--user-data-dir={tmp_path}/browser", f"--screenshot={tmp_path}/page.png", "--window-size=1000,1500"]
    done = subprocess.run([browser, *flags, *places, "--dump-dom", f"file://{run}/report.html"], capture_output=True,
                          text=True, timeout=120, check=True)  # fmt: skip
    dumped = re.sub("</(line|circle|rect|polyline)>", "", done.stdout)  # a browser closes them
    page = check_page(dumped)
    assert EVIL in page.text and "<title>Run run</title>" in dumped
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(shown, axis=0)) > 100
