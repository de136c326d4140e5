"""A run folder that another hand was in: refused or told of before the first step, and never waited on."""

from __future__ import annotations

import os
import re
import signal

import pytest
from training import config, in_process, overrides, train

from detrex_ext.checkpoint import RunFolder
from detrex_ext.cli import dispatch
from detrex_ext.engine import evaluate
from detrex_ext.engine.writers import TensorboardXWriter
from detrex_ext.errors import UserError

FILES = ["last_checkpoint", "metrics.json", "evaluation.json", "model_0000009.pth", "config.yaml", "log.txt", ".lock"]
KINDS = {
    "folder": os.mkdir,
    "pipe": os.mkfifo,
    "dead link": lambda path: os.symlink("/nowhere/at/all", path),
}


@pytest.fixture
def in_time():
    """A pipe that is opened waits for ever; no test does."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_refused_before_anything_is_done(shapes_data, tmp_path, in_time, name, kind):
    KINDS[kind](tmp_path / name)
    for more, resume in (((), False), ((), True), (("train.overwrite=true",), False)):
        with pytest.raises(UserError, match=rf"{re.escape(name)}: expected a file, found a folder, a pipe or a link"):
            train(shapes_data, tmp_path, more, resume)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_evaluation_writes_to_no_folder_that_a_link_leads_to(shapes_data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "evaluation").symlink_to(tmp_path / "mine")
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UserError, match="evaluation: expected a folder, found a link"):
        evaluate(config(shapes_data, tmp_path, f"train.init_checkpoint={tmp_path / 'model_final.pth'}"))
    assert not list((tmp_path / "mine").iterdir())


def test_pipes_are_no_checkpoints(tmp_path, in_time):
    os.mkfifo(tmp_path / "model_0000009.pth")
    os.mkfifo(tmp_path / "model_final.pth")
    os.mkdir(tmp_path / "last_checkpoint")
    folder = RunFolder(tmp_path)
    assert folder.newest() is None and folder.checkpoints() == [] and folder.periodic_files() == []


def test_data_and_images_are_files(shapes_data, tmp_path, in_time):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("/dev/zero", tmp_path / "pipe.png", tmp_path):
        with pytest.raises(UserError, match="cannot be opened: .*\n  expected a file, found a folder, device or pipe"):
            train(shapes_data, tmp_path / "out", (f"dataset.train_json={name}",))
    from detrex_ext.data.read import UnreadableImage, image_size, read_image

    for read in (read_image, image_size):
        with pytest.raises(UnreadableImage, match="expected a file, found a folder, device or pipe"):
            read(tmp_path / "pipe.png")


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 100_000, '{"images": ' + "1" * 5000 + "}"])
def test_json_that_python_cannot_hold(shapes_data, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="is no (valid JSON|COCO annotation file)"):
        train(shapes_data, tmp_path / "out", (f"dataset.train_json={tmp_path}/a.json",))


def resume_with_evaluation(data, out, text):
    (out / "evaluation.json").write_text(text)
    train(data, out, ("train.max_iter=2",), resume=True)


def test_an_evaluation_of_another_form_is_made_again(shapes_data, tmp_path):
    from detrex_ext.engine import EvalHook

    assert in_process(train, shapes_data, tmp_path, ("train.max_iter=2",)) == 0
    assert in_process(resume_with_evaluation, shapes_data, tmp_path, "[1]") == 0
    assert "evaluation.json is not as it was written: evaluated again" in (tmp_path / "log.txt").read_text()

    hook = EvalHook(1, dict, folder=tmp_path)
    bad = ["[1]", "3", "null", "{}", "{", '{"iteration": 2}', '{"iteration": 2, "key": ""}', "[" * 100_000]
    results = ["[1]", "3", '{"a": "x"}', '{"a": [1]}', '{"a": 1' + "0" * 400 + "}"]
    for text in (*bad, *('{"iteration": 2, "key": "", "results": ' + value + "}" for value in results)):
        (tmp_path / "evaluation.json").write_text(text)
        assert hook._read(2) is None, text
    (tmp_path / "evaluation.json").write_text('{"iteration": 2, "key": "", "results": {"a": {"b": 1}}}')
    assert hook._read(2) == {"a": {"b": 1}} and hook._read(3) is None


def test_a_folder_whose_name_tensorboard_cannot_write(shapes_data, tmp_path, caplog):
    out = tmp_path / "u\udcc3n"
    assert in_process(train, shapes_data, out, ("train.max_iter=1", "train.eval_period=0")) == 0
    assert RunFolder(out).final.is_file() and not list(out.glob("events*"))
    assert "tensorboard cannot write to a folder of this name" in (out / "log.txt").read_text()
    assert TensorboardXWriter(str(out))._writer is None


# ---- configs that fail at the first step

GETCWD = "{_target_: os.getcwd}"


@pytest.mark.parametrize(
    "override, expected",
    [
        ("model.rules=null", r"model\.rules is empty, so there is nothing to train by"),
        ("++model.rules.enc=null", r"no rule fits the set of group 'enc'"),
        ("++model.rules.main.terms={}", r"terms must be one Term or more by name; there is none"),
        ("++model.rules.main.terms.x=3", r"terms must be .*x is int"),
        (f"++model.rules.main.matcher={GETCWD}", r"matcher must be a Matcher; found str"),
        (f"++model.rules.main.terms.bbox.loss={GETCWD}", r"loss must be a Loss; found str"),
        ("++model.rules.x=abc", r"rules\.x: expected a Rule, found str"),
        ("++model.strategies.x=3", r"strategies\.x: expected a Strategy, found int"),
        (f"++model.strategies.x={GETCWD}", r"strategies\.x: expected a Strategy, found str"),
        ("model.backbone.out_features=[res3,res3]", r"does not fit model\.backbone at res4, res5: it takes .*res5: 16, "
                                                    r"the backbone gives res3: 16\n"),
        ("model.neck.in_channels={res4:17}", r"does not fit model\.backbone at res4: "),
        (f"++model.encoder={GETCWD}", r"model\.encoder: expected a part of a model, found str"),
        (f"++model.postprocess={GETCWD}", r"model\.postprocess: expected a part of a model, found str"),
        ("++model={a: 1}", r"model: expected a Module, its _target_ gives DictConfig"),
        (f"++lr_multiplier.scheduler={GETCWD}", r"lr_multiplier\.scheduler: expected a schedule, found str"),
        (f"++lr_multiplier={GETCWD}", r"lr_multiplier: expected a schedule.*found str"),
        ("++optimizer={a: 1}", r"optimizer\.lr is not set"),
        ("++optimizer={_target_: builtins.dict, lr: 1, params: {}}", r"optimizer: expected a Optimizer, .* gives dict"),
        ("++dataloader.train={a: 1}", r"dataloader\.train\.total_batch_size is not set"),
        (f"++dataloader.evaluator={GETCWD}", r"dataloader\.evaluator: expected something with reset, process"),
        ("++optimizer.params.overrides={weight: {weight_dekay: 1}}",
         r"optimizer\.params\.overrides\.weight\.weight_dekay: AdamW has no option.*did you mean weight_decay"),
        ("++optimizer.params.overrides={nowhere: {zzz: 1}}", r"nowhere\.zzz: AdamW has no option 'zzz'\n  it has: lr"),
    ],
)  # fmt: skip
def test_what_would_fail_at_the_first_step(shapes_data, tmp_path, capsys, override, expected):
    argv = ["train", "--config-file", "small", *overrides(shapes_data, tmp_path / "out"), "train.max_iter=2", override]
    assert dispatch(argv) == 2
    assert re.search(expected, capsys.readouterr().err, re.S)
    assert not list(tmp_path.glob("out/model_*"))


def test_what_is_there_and_does_nothing_is_told(shapes_data, tmp_path):
    factors = "{_target_: detrex_ext.engine.LrFactor, factors: {backbone: 0.1, bacbone: 1}}"
    more = (
        "++optimizer.params.overrides={nowhere: {lr: 0.1}}",
        f"++optimizer.params.lr_factor_func={factors}",
        "++model.rules.main.terms.giou=null",
        "lr_multiplier.warmup_iters=2",
        "train.max_iter=2",
    )
    assert in_process(train, shapes_data, tmp_path, more) == 0
    log = (tmp_path / "log.txt").read_text()
    told = "overrides.nowhere, lr_factor_func.factors.bacbone: no parameter has such a name"
    assert f"WARNING: optimizer.params.{told}\n" in log
    assert "warmup_iters=2: all 2 iterations are warm-up" in log
    assert "loss_bbox:" in log and "loss_giou:" not in log


def test_the_small_config_names_parameters_that_are_there(shapes_data, tmp_path, caplog):
    from detrex_ext.engine import build_optimizer, setup

    cfg = config(shapes_data, tmp_path, "model.num_classes=4")
    build_optimizer(cfg, setup.build_model(cfg))
    assert "no parameter has such a name" not in caplog.text
