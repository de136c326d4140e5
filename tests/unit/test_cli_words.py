"""What a person types by mistake, and what the commands answer."""

from __future__ import annotations

import json

import narrow_run
import pytest
from PIL import Image

from detrex_ext.checkpoint import find_weights, read_checkpoint
from detrex_ext.cli import dispatch
from detrex_ext.config import find_config
from detrex_ext.data import shapes
from detrex_ext.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return narrow_run.write(tmp_path_factory.mktemp("run"))


@pytest.fixture
def refused(capsys):
    """The message of a command that is refused."""

    def refused(*argv: str) -> str:
        try:
            assert dispatch(argv) == 2
        except SystemExit as end:  # argparse's
            assert end.code == 2
        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize(
    "line, expected",
    [
        ("trian", "unknown verb 'trian'; did you mean train?"),
        ("benchmark stpe", "did you mean step?"),
        ("benchmark", "arguments are required: SUITE\n"),
        ("analyze stagse small", "did you mean stages?"),
        ("analyze stages small --imges 3", "did you mean --images"),
        ("analyze model small --data x", "unrecognized arguments: --data x; it belongs to another of the verbs"),
        ("train --config-fiel small", "did you mean --config-file?"),
        ("predict a b --treshold 3", "did you mean --threshold"),
        ("train old", "no config given; did you mean --config-file old?"),
        ("train --config-file small train.max_iter = 10", "no blanks around =: train.max_iter=10"),
        ("train --config-file small train.max_iter =10", "no blanks around =: train.max_iter=10"),
        ("train --config-file small train.max_iter= 10", "no blanks around =: train.max_iter=10"),
        ("analyze model small train.max_iter = 10", "no blanks around =: train.max_iter=10"),
        ("benchmark step train.max_iter = 10", "no blanks around =: train.max_iter=10"),
        ("train --config-file small --no-average", "--no-average goes with --eval-only"),
        ("train --config-file configs/smal.py", "no shipped config of that name\n  did you mean small"),
        ("convert missing.pth out.pth", "missing.pth: not found\n  expected a run folder, or a .pth"),
        ("check vall.json", "not found: vall.json; did you mean val.json?\n  JSON files in .: val.json\n"),
        ("check nowhere/val.json", "annotation file not found: nowhere/val.json\n  there is no folder nowhere\n"),
        ("train --config-file empty", "a folder without config.yaml, so no run of a training; it holds notes.txt"),
        ("predict run.pth val.json --threshold 30", "--threshold 30.0 must lie in [0, 1]\n"),
        ("predict run.pth val.json --batch-size 0", "--batch-size 0: expected 1 or more\n"),
        ("predict run.pth a.png --output val.json", "--output val.json: expected a folder, found a file\n"),
        ("predict http://x/y.pth a.png", "--output DIR: name a folder for what is written"),
    ],
)
def test_a_mistake_is_answered_by_what_is_meant(line, expected, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    Image.new("RGB", (8, 8)).save("a.png")
    assert expected in refused(*line.split())


@pytest.mark.parametrize("name", ["my/configs/smal.py", "C:\\my\\smal.py", "smal"])
def test_few_names_are_listed_for_a_config_that_is_not_there(name):
    with pytest.raises(UserError, match="did you mean small"):
        find_config(name)
    with pytest.raises(UserError, match=r"in all\)") as error:
        find_config("nothing_like_it_0")
    assert str(error.value).count(",") < 20


def test_a_run_is_named_where_a_command_leaves_out_its_config_or_its_data(run, refused):
    folder = f"train.output_dir={run}"
    assert f"did you mean --config-file {run}?" in refused("train", folder, "--resume")
    message = refused("train", "--config-file", "small", folder, "--resume")
    assert f"dataset.train_json is empty\n  with the config and the data of the run in {run}: " in message
    assert f"--config-file {run} --resume\n" in message
    assert f"--config-file {run} --eval-only" in refused("train", "--config-file", "small", folder, "--eval-only")
    assert f"go on with it: --config-file {run} --resume " in refused("train", "--config-file", str(run))


def test_a_folder_is_no_image_to_analyze(run, refused):
    message = refused("analyze", "attention", str(run), str(run.parent / "data"))
    assert "a folder; analyze attention looks at one image" in message and "IsADirectoryError" not in message


def test_predicting_goes_into_the_run_and_counts_in_words(run, tmp_path, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert dispatch(["predict", str(run), str(tmp_path / "a.png"), "--device", "cpu"]) == 0
    assert f"on 1 image, drawn in {run}/predictions; " in capsys.readouterr().out
    assert len(json.loads((run / "predictions" / "predictions.json").read_text())) == 1


def test_predicting_on_nothing_that_can_be_read_writes_nothing(run, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"broken")
    out = tmp_path / "out"
    assert dispatch(["predict", str(run), str(tmp_path / "a.png"), "--device", "cpu", "--output", str(out)]) == 2
    shown = capsys.readouterr()
    assert "1 of 1 image cannot be used, so nothing is written\n" in shown.err and "objects" not in shown.out
    assert not (out / "predictions.json").exists() and ";;" not in shown.err and "; ;" not in shown.err


@pytest.mark.parametrize("flag, kind", [((), "averaged"), (("--no-average",), "trained")])
def test_a_converted_file_says_what_it_holds(run, tmp_path, flag, kind, capsys):
    import torch

    data = torch.load(run / "model_final.pth", weights_only=True)
    source, target = tmp_path / "model.pth", tmp_path / "out.pth"
    torch.save({**data, "ema_state": data["model"], "iteration": 29, "evaluated": "ema_state"}, source)
    assert dispatch(["convert", str(source), str(target), "--report", *flag]) == 0
    shown = capsys.readouterr().out
    assert f"weights: {source}, after 30 iterations, {kind} weights\n" in shown
    assert all(f"  {key}\n" in shown for key in data["model"])
    assert "ema_state" not in read_checkpoint(target)
    assert str(find_weights(target)) == f"{target}, after 30 iterations, {kind} weights"


@pytest.mark.parametrize("held", [["ema_state"], 3, None, "nothing"])
def test_a_file_that_says_nonsense_of_what_it_holds(held, tmp_path):
    import torch

    torch.save({"model": {"a": torch.zeros(1)}, "holds": held}, tmp_path / "a.pth")
    assert str(find_weights(tmp_path / "a.pth")).endswith("a.pth, trained weights")


def test_options_of_the_shapes_say_what_they_are(capsys):
    with pytest.raises(SystemExit):
        shapes.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--num-val N images of the validation split (default 100)" in text and "DIR folder to write to" in text
