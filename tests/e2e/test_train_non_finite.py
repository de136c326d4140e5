"""A batch whose loss is not finite: the training ends or goes on as asked, and the step can be run again."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from training import Flags, config, in_process, metrics, train

from detrex_ext.checkpoint import read_checkpoint
from detrex_ext.cli import run
from detrex_ext.cli.train import main
from detrex_ext.config import LazyConfig, load_config
from detrex_ext.errors import UserError

SKIP = ("train.non_finite.policy=skip", "train.non_finite.limit=2", "train.log_period=1")


def spoilt(iterations):
    """The first image of these iterations has a pixel that is infinite."""
    from detrex_ext.engine.trainer import Trainer

    plain = Trainer._gradients

    def gradients(self, batch):
        if self.iter in iterations:
            batch[0]["image"] = batch[0]["image"].float()
            batch[0]["image"][0, 3, 3] = float("inf")
        return plain(self, batch)

    Trainer._gradients = gradients


def one():
    spoilt([5])


def three():
    spoilt([5, 6, 7])


def apart():
    spoilt([1, 2, 5, 6])


def trained(data, out, *more, sabotage=one):
    code = in_process(train, data, out, more, sabotage=sabotage)
    return code, (out / "log.txt").read_text()


def test_the_training_ends_and_the_step_can_be_run_again(shapes_data, tmp_path, capsys):
    code, _ = trained(shapes_data, tmp_path)
    assert code != 0 and not (tmp_path / "model_final.pth").exists()
    kept = read_checkpoint(tmp_path / "non_finite.pth")
    before = read_checkpoint(tmp_path / "model_0000003.pth")
    assert kept["step"]["iteration"] == 5 and len(kept["step"]["batch"]) == 4 and kept["step"]["progress"] == 0.5
    assert kept["class_names"] == before["class_names"]
    assert all(torch.isfinite(value).all() for value in kept["model"].values())
    assert main(["--replay", str(tmp_path / "non_finite.pth")]) == 1
    said = capsys.readouterr().out
    assert "iteration 5 of process 0: iteration 5: " in said
    assert f"image that is not finite: {kept['step']['batch'][0]['file_name']}" in said


def test_the_layer_where_it_began_is_named(shapes_data, tmp_path, capsys):
    trained(shapes_data, tmp_path)
    data = read_checkpoint(tmp_path / "non_finite.pth")
    data["step"]["batch"][0]["image"][0, 3, 3] = 0.0
    data["model"]["decoder.layers.1.ffns.0.layers.1.weight"][:] = 3e38
    data["step"]["progress"] = "late"  # of a file that somebody has changed
    torch.save(dict(data), tmp_path / "x.pth")
    assert main(["--replay", str(tmp_path / "x.pth")]) == 1
    assert "first: decoder.layers.1.ffns.0" in capsys.readouterr().out


def test_a_step_that_is_finite_says_so_and_repeats_the_losses_of_the_training(shapes_data, tmp_path, capsys):
    trained(shapes_data, tmp_path, "train.log_period=1")
    path = tmp_path / "non_finite.pth"
    data = read_checkpoint(path)
    data["step"]["batch"][0]["image"][0, 3, 3] = 0.0
    torch.save(dict(data), path)
    assert main(["--replay", str(path), "train.device=cpu"]) == 0
    said = capsys.readouterr().out
    assert "losses and gradients are finite" in said and "first:" not in said
    assert in_process(train, shapes_data, tmp_path / "well", ("train.log_period=1",)) == 0
    (line,) = [line for line in metrics(tmp_path / "well") if line["iteration"] == 5 and "total_loss" in line]
    shown = dict(line.split() for line in said.splitlines() if line.startswith("  loss_"))
    assert shown and len(shown) == sum(name.startswith("loss_") for name in line)
    mended = [line[name] == pytest.approx(float(value), rel=0.2) for name, value in shown.items()]
    assert all(mended)  # one pixel of one image differs


def test_skipped_steps_leave_the_weights_and_the_training_goes_on(shapes_data, tmp_path):
    code, log = trained(shapes_data, tmp_path, *SKIP, sabotage=apart)
    assert code == 0
    assert "step skipped (2 in a row, 2 in all): iteration 2: " in log
    assert "step skipped (2 in a row, 4 in all): iteration 6: " in log
    final = read_checkpoint(tmp_path / "model_final.pth")
    assert all(torch.isfinite(value).all() for value in final["model"].values())
    steps = {int(state["step"]) for state in final["trainer"]["optimizer"]["state"].values()}
    assert steps == {6}  # ten less the four
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == sorted(line["iteration"] for line in lines)
    for line in (tmp_path / "metrics.json").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_as_many_in_a_row_as_the_limit_are_skipped_and_no_more(shapes_data, tmp_path):
    code, log = trained(shapes_data, tmp_path, *SKIP, sabotage=three)
    assert code != 0 and not (tmp_path / "model_final.pth").exists()
    assert log.count("step skipped") == 2


def test_the_first_step_may_be_skipped(shapes_data, tmp_path):
    code, log = trained(shapes_data, tmp_path, *SKIP, sabotage=first_step)
    assert code == 0 and "step skipped (1 in a row, 1 in all): iteration 0: " in log


def first_step():
    spoilt([0])


def test_a_new_training_in_the_folder_takes_the_file_away(shapes_data, tmp_path):
    trained(shapes_data, tmp_path)
    from detrex_ext import engine

    with pytest.raises(UserError, match="train.overwrite=true"):
        engine.train(config(shapes_data, tmp_path), Flags())
    assert (tmp_path / "non_finite.pth").exists()
    assert in_process(train, shapes_data, tmp_path, ("train.overwrite=true",)) == 0
    assert not (tmp_path / "non_finite.pth").exists()


@pytest.mark.parametrize(
    "step",
    [
        None,
        "text",
        {},
        {"batch": 3},
        {"batch": [3]},
        {"batch": [{"image": "a"}]},
        {"batch": [{"image": torch.zeros(2), "image_size": (1, 1), "fields": {}, "boxes": []}]},
        {"batch": [{"image": torch.zeros(3, 8, 8), "image_size": "ab", "fields": {}, "boxes": []}]},
        {"batch": [{"image": torch.zeros(3, 8, 8), "image_size": (8, 8), "fields": {"a": 1}, "boxes": ["a"]}]},
    ],
)
def test_a_file_that_holds_no_step_is_named(shapes_data, tmp_path, capsys, step):
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "step": step}, path)
    assert run(main, ["--replay", str(path)]) == 2
    assert "holds no step that can be run again" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["optimizer", "dataloader.train", "model.rules.main", "model.backbone", "train.amp"])
def test_names_in_the_config_of_a_stranger_s_step_are_not_imported(shapes_data, tmp_path, capsys, monkeypatch, where):
    (tmp_path / "of_a_stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(**_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config("small", (), ["model.num_classes=4"])
    OmegaConf.update(cfg, f"{where}._target_", "of_a_stranger.f", force_add=True)
    data = {
        "model": {"a": torch.zeros(1)},
        "config": LazyConfig.dumps(cfg),
        "step": {"batch": [{"image": torch.zeros(3, 8, 8), "image_size": (8, 8), "fields": {}, "boxes": []}]},
    }
    torch.save(data, tmp_path / "x.pth")
    for words in ([], ["train.device=cpu"]):
        assert run(main, ["--replay", str(tmp_path / "x.pth"), *words]) == 2
        assert not (tmp_path / "ran").exists()
        assert "Traceback" not in capsys.readouterr().err


def test_flags_that_do_not_go_together(tmp_path, capsys):
    assert run(main, ["--replay", "x.pth", "--resume"]) == 2
    assert "without --resume, --eval-only, --no-average, --data" in capsys.readouterr().err
    assert run(main, ["--replay", str(tmp_path / "none.pth")]) == 2
    assert "not found" in capsys.readouterr().err
