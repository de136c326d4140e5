"""The grammar that all `analyze` verbs share, and the spellings of before."""

from __future__ import annotations

import json
import shutil

import narrow_run
import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext.analysis.queries import AFFINITIES, STREAMS
from detrex_ext.cli import analyze_queries, dispatch
from detrex_ext.config import LazyConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with random weights, and its data."""
    return narrow_run.write(tmp_path_factory.mktemp("run"))


def image_of(run):
    return str(sorted((run.parent / "data" / "images").iterdir())[0])


def arguments(verb, run):
    """What a verb needs after the run."""
    return {"stages": ["--images", "0"], "queries-per-object": [], "attention": [image_of(run)], "model": []}[verb]


VERBS = ["stages", "queries-per-object", "attention", "model"]


@pytest.mark.parametrize("verb", VERBS)
def test_json_on_standard_output_is_alone_there(run, tmp_path, verb, capsys):
    """Tables and logs go to standard error, and the file that a name asks for says the same."""
    pytest.importorskip("matplotlib")
    output = [] if verb == "model" else ["--output", str(tmp_path)]
    argv = ["analyze", verb, str(run), *arguments(verb, run), *output]
    argv += ["--size", "64x96", "model.num_classes=4"] if verb == "model" else []
    assert dispatch([*argv, "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert isinstance(json.loads(shown.out), dict) and shown.err
    assert dispatch([*argv, "--json", str(tmp_path / "copy.json")]) == 0
    assert json.loads((tmp_path / "copy.json").read_text()) == json.loads(shown.out)
    assert capsys.readouterr().out


@pytest.mark.parametrize("verb", ["stages", "queries-per-object", "model"])
def test_the_config_file_flag_of_before_is_taken_with_the_new_form(run, tmp_path, verb, capsys):
    pytest.importorskip("matplotlib")
    options = ["--json", "-", *(["--size", "64x96", "model.num_classes=4"] if verb == "model" else [])]
    options += [] if verb == "model" else ["--output", str(tmp_path)]
    assert dispatch(["analyze", verb, str(run), *arguments(verb, run), *options]) == 0
    now = capsys.readouterr().out
    assert dispatch(["analyze", verb, "--config-file", str(run), *arguments(verb, run), *options]) == 0
    before = capsys.readouterr()
    assert before.out == now and f"--config-file {run} is now: analyze {verb} {run}\n" in before.err


def test_a_checkpoint_with_the_config_of_before(run, tmp_path, capsys):
    """`attention CHECKPOINT IMAGE --config-file F` said which config; now that is what comes first."""
    alone = shutil.copy(run / "model_final.pth", tmp_path / "alone.pth")
    old = ["analyze", "attention", str(alone), image_of(run), "--config-file", str(run / "config.yaml")]
    assert dispatch([*old, "--output", str(tmp_path / "a")]) == 0
    weights = f"train.init_checkpoint={alone}"
    assert f"is now: analyze attention {run}/config.yaml {image_of(run)} {weights}" in capsys.readouterr().err
    new = ["analyze", "attention", str(run / "config.yaml"), image_of(run), weights]
    assert dispatch([*new, "--output", str(tmp_path / "b")]) == 0
    a, b = (json.loads((tmp_path / name / "attention.json").read_text()) for name in "ab")
    assert a == b


def test_json_alone_and_images_of_before_are_taken(run, tmp_path, capsys):
    argv = ["analyze", "model", str(run), "--size", "64x96", "--json"]
    assert dispatch([*argv, "model.num_classes=4"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["batch"] == 1 and "--json without a file is now --json -" in shown.err
    assert dispatch(["analyze", "model", "--size", "64x96", "--json", "--config-file", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 1
    argv = ["analyze", "stages", str(run), "--output", str(tmp_path)]
    assert dispatch([*argv, "--pictures", "0"]) == 0
    assert "--pictures 0 is now --images 0" in capsys.readouterr().err


def test_a_checkpoint_is_a_run_too(run, tmp_path, capsys):
    """Its config is in it or beside it, and what is found goes beside it."""
    moved = shutil.copytree(run, tmp_path / "moved")
    assert dispatch(["analyze", "stages", str(moved / "model_final.pth"), "--images", "0", "--json", "-"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert json.loads((moved / "stages" / "stages.json").read_text()) == one
    (moved / "config.yaml").unlink()
    assert dispatch(["analyze", "stages", str(moved / "model_final.pth")]) == 2
    assert "holds no config, so its model is unknown" in capsys.readouterr().err


def test_overlays_are_a_list_as_in_a_training(run, capsys):
    argv = ["analyze", "model", "small", "--size", "64x96", "--json", "-"]
    assert dispatch([*argv, "--overlay", "tiny,sqr", "--overlay", "dac"]) == 0
    tiny = json.loads(capsys.readouterr().out)
    assert dispatch(argv) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > tiny["parameters"]


@pytest.mark.parametrize("argv", [["stages"], ["attention", "run"], ["stages", "train.seed=1"], ["model", "--json"]])
def test_what_is_missing_is_named(argv, capsys):
    with pytest.raises(SystemExit):
        dispatch(["analyze", *argv])
    assert "before the overrides" in capsys.readouterr().err


def test_the_names_in_the_help_are_those_of_the_analysis():
    assert (analyze_queries._STREAMS, analyze_queries._AFFINITIES) == (STREAMS, AFFINITIES)


HOSTILE = [
    "model.neck",
    "dataloader.test",
    "dataloader.test.dataset",
    "dataloader.test.mapper.augmentation.0",
    "dataloader.evaluator",
    "dataloader.train",
    "optimizer",
    "lr_multiplier",
]


@pytest.mark.parametrize("verb", ["stages", "queries-per-object", "model"])
@pytest.mark.parametrize("where", HOSTILE)
def test_a_checkpoint_runs_no_code_of_its_config(run, tmp_path, verb, where, capsys):
    """What is built of it is refused, what is not is left alone."""
    pytest.importorskip("matplotlib")
    data = torch.load(run / "model_final.pth", weights_only=True)
    cfg = LazyConfig.load(str(run / "config.yaml"))
    harm = tmp_path / "harm"
    OmegaConf.update(cfg, where, {"_target_": "os.mkdir", "path": str(harm)}, merge=False, force_add=True)
    OmegaConf.set_struct(cfg, False)
    torch.save({**data, "config": OmegaConf.to_yaml(cfg)}, tmp_path / "x.pth")
    more = ["--size", "64x96", "model.num_classes=4"] if verb == "model" else ["--output", str(tmp_path / "out")]
    status = dispatch(["analyze", verb, str(tmp_path / "x.pth"), *more])
    assert not harm.exists()
    built = where == "model.neck" or where.startswith("dataloader.test")
    assert status == (2 if built else 0)
    assert not built or "its config would call 'os.mkdir'" in capsys.readouterr().err
