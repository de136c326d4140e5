"""Where classes that moved were is still taken: in configs by the table, in Python where people import them from."""

from __future__ import annotations

import importlib
import logging

import pytest

from detrex_ext.config.renamed import TARGETS


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
