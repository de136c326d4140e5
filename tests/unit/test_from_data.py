"""The length of a training from the size of its set, and its progress."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from detrex_ext.config import load_config
from detrex_ext.data.fitting import fitting_length
from detrex_ext.engine import setup
from detrex_ext.engine.from_data import choose_length
from detrex_ext.engine.loop import TrainerBase
from detrex_ext.errors import UserError


@pytest.mark.parametrize(
    "images, batch, steps",
    [(1, 8, 1000), (131, 8, 1000), (134, 8, 1005), (400, 8, 3000), (400, 16, 1500), (2000, 8, 5000), (10**6, 8, 5000)],
)
def test_sixty_epochs_within_bounds(images, batch, steps):
    assert fitting_length(images, batch) == steps


def settled(*overrides: str, name: str = "photos"):
    cfg = load_config(name, (), overrides)
    setup.settle(cfg)
    return cfg


def length(cfg, images: int) -> tuple:
    choose_length(cfg, range(images))
    t = cfg.train
    return t.max_iter, t.eval_period, t.checkpointer.period, t.epochs


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["train.minutes=null"], (3000, 300, 300, None)),
        (["train.minutes=null", "train.epochs=10"], (500, 50, 50, None)),
        (["train.minutes=null", "train.epochs=10", "train.eval_period=0"], (500, 0, 50, None)),
        (["train.minutes=null", "train.epochs=0.5"], (25, 2, 2, None)),
        (["train.minutes=null", "train.epochs=0.001"], (1, 1, 1, None)),
        (["train.minutes=null", "train.epochs=1.001"], (51, 5, 5, None)),  # begun means whole
        (["train.minutes=null", "train.max_iter=77"], (77, 7, 7, None)),
        (["train.fast_dev_run.enabled=true", "train.minutes=null", "train.epochs=3"], (20, 10, 2, None)),
    ],
)
def test_the_length_follows_from_400_images_in_batches_of_8(overrides, expected):
    assert length(settled(*overrides), 400) == expected


def test_a_recipe_that_states_its_length_keeps_it():
    assert length(settled(name="small"), 400) == (2000, 500, 500, None)
    assert length(settled("train.epochs=4", name="small"), 400) == (200, 500, 500, None)


def test_it_is_logged_and_a_chosen_length_stays(caplog):
    cfg = settled("train.minutes=null")
    with caplog.at_level(logging.INFO, "detrex_ext"):
        first = length(cfg, 400)
        assert length(cfg, 999) == first
    assert caplog.text.count("data: 400 images in batches of 8: train.max_iter=3000, 60 epochs") == 1
    assert "999" not in caplog.text
    assert cfg.lr_multiplier.max_iter == 3000  # what refers to it


def test_two_lengths_at_once_are_refused():
    with pytest.raises(UserError, match="(?s)train.epochs=10 and train.minutes=15 are two lengths.*train.minutes=null"):
        settled("train.epochs=10")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "true", "many", "[1]"])
def test_epochs_that_are_none_are_refused(value):
    with pytest.raises(UserError, match="train.epochs"):
        load_config("photos", (), [f"train.epochs={value}"])


def test_a_length_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="more than 1,000,000,000"):
        length(settled("train.minutes=null", "train.epochs=1e6"), 10**6)
    with pytest.raises(UserError, match="state train.max_iter"):
        choose_length(settled("train.minutes=null"), SimpleNamespace())


def test_progress_is_iteration_over_length_and_follows_a_plan():
    trainer = TrainerBase()
    for most in (1, 3, 7, 1000, 90000):
        trainer.max_iter = most
        assert all(trainer.progress_at(i) == i / most for i in range(0, most + 1, max(most // 97, 1)))
    trainer.max_iter, trainer.anchor = 200, (100, 0.2)  # half of the steps are done, and a fifth of the progress
    assert trainer.progress_at(100) == 0.2
    assert trainer.progress_at(150) == pytest.approx(0.6)
    assert [trainer.progress_at(i) for i in (200, 300)] == [1.0, 1.0]
    trainer.max_iter = 100
    assert trainer.progress_at(101) <= 1.0
