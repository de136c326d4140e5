"""Where classes that moved were is still taken: in configs by the table, in Python where people import them from."""

from __future__ import annotations

import importlib
import logging

import pytest
from omegaconf import OmegaConf

from detrex_ext.config import LazyConfig
from detrex_ext.config.renamed import KEYS, TARGETS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_new_name_of_the_table_is_there_and_no_old_one_leads_elsewhere(name):
    module, _, last = TARGETS[name].rpartition(".")
    found = getattr(importlib.import_module(module), last)
    assert found.__name__ == last == name.rpartition(".")[2]


@pytest.mark.parametrize("name, now", [("StageEvaluator", "stages"), ("QueryEvaluator", "queries")])
def test_evaluators_that_moved_to_the_analysis_are_found_where_they_were(name, now, caplog):
    evaluation = importlib.import_module("detrex_ext.evaluation")
    with caplog.at_level(logging.WARNING):
        found = getattr(evaluation, name)
    assert found is getattr(importlib.import_module(f"detrex_ext.analysis.{now}"), name)
    assert f"detrex_ext.evaluation.{name} is now in detrex_ext.analysis.{now}" in caplog.text
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        evaluation.Nothing  # noqa: B018


def test_the_former_spelling_of_the_summary_is_taken(caplog):
    analysis = importlib.import_module("detrex_ext.analysis")
    with caplog.at_level(logging.WARNING):
        assert analysis.summarise is analysis.summarize
    assert "detrex_ext.analysis.summarise is called summarize now" in caplog.text
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        analysis.nothing  # noqa: B018


@pytest.mark.parametrize("table", [TARGETS, KEYS], ids=["targets", "keys"])
def test_no_row_of_a_table_leads_to_itself_or_to_another_row(table):
    assert table and not set(table) & set(table.values())


def test_the_number_of_images_drawn_is_taken_by_its_former_key(caplog):
    cfg = OmegaConf.create({"dataloader": {"evaluator": {"images": 5}}})
    with caplog.at_level(logging.WARNING):
        LazyConfig.apply_overrides(cfg, ["dataloader.evaluator.pictures=20"])
        read = LazyConfig.loads("dataloader: {evaluator: {pictures: 7}}")
    assert cfg.dataloader.evaluator == {"images": 20} and read.dataloader.evaluator == {"images": 7}
    assert "'dataloader.evaluator.pictures' is called 'dataloader.evaluator.images' now" in caplog.text
