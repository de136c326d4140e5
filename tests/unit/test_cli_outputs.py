"""Where verbs write that are told no other place: in a run's folder, and through no link of it."""

from __future__ import annotations

import argparse

import pytest
from omegaconf import OmegaConf

from detrex_ext.cli import analyze_inputs, export, plot, predict_files, report
from detrex_ext.cli.outputs import in_run
from detrex_ext.errors import UserError

DEFAULTS = {
    "predictions": lambda run: predict_files.output_of(None, run),
    "curves.png": lambda run: plot.main([run]),
    "report.html": lambda run: report.main([run]),
    "model.onnx": lambda run: export.main([run]),
    "model_int8.onnx": lambda run: export.main([run, "--int8"]),
    "stages": lambda run: analyze_inputs.output_of(
        OmegaConf.create({"train": {"output_dir": run}}), argparse.Namespace(run=run, output=None), "stages"
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_verb_writes_through_a_link_of_a_run(tmp_path, name):
    run, other = tmp_path / "run", tmp_path / "mine"
    run.mkdir()
    other.mkdir()
    (run / name).symlink_to(other / "what_is_mine")
    with pytest.raises(UserError, match=f"{name} is a link, and what is written would go to .*what_is_mine"):
        DEFAULTS[name](str(run))
    assert not list(other.iterdir())


def test_a_folder_that_holds_a_link_is_none_to_write_to(tmp_path):
    (tmp_path / "predictions" / "crops").mkdir(parents=True)
    assert in_run(tmp_path, "predictions") == tmp_path / "predictions"
    (tmp_path / "predictions" / "crops" / "cat").symlink_to(tmp_path)
    with pytest.raises(UserError, match="crops/cat is a link"):
        in_run(tmp_path, "predictions")
    assert predict_files.output_of(str(tmp_path / "predictions"), str(tmp_path))  # a place that was named is taken
