"""Texts of configs that no training wrote: one message, soon, and nothing of them is taken."""

from __future__ import annotations

import time

import pytest
import torch
import yaml
from omegaconf import DictConfig

import detrex_ext
from detrex_ext.config import LazyConfig, load_config, save_config
from detrex_ext.errors import UserError
from detrex_ext.inference import build_for_inference

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 8)
)
IN_A_TEXT = '"' + BOMB.replace("\n", "\\n") + '"'  # omegaconf would parse it once more


@pytest.mark.parametrize(
    "text",
    [
        *(BOMB, IN_A_TEXT, "a: &a [*a]", "a: &a {b: *a}"),
        *("a: " + "[" * 3000, "a: " + "{b: " * 600, "a: " + "[" * 60 + "]" * 60),
        *("x: 1" + "0" * 5000, "x: 1" + ":1" * 5000, "x: !!float abc", "x: !!int z", "x: !!timestamp a", "x: !!bool q"),
        *("x: !!map 3", "x: !!set 3", "abc", "3", "\0", '"\ud800"', "a: [", "a: '${foo'", "null: 3"),
    ],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
def test_text_that_cannot_be_a_config(text):
    start = time.process_time()
    with pytest.raises(yaml.YAMLError):
        LazyConfig.loads(text)
    assert time.process_time() - start < 5


def test_what_trainings_write_is_far_from_the_limits():
    for name in ("small", "dino_r50_4scale_12ep", "adamixer_swin_s_300q_36ep"):
        text = LazyConfig.dumps(load_config(name))
        assert LazyConfig.loads(text) == LazyConfig.loads(text) and len(text) < 20_000
    assert LazyConfig.loads("a: &a {b: 1}\nc: [*a, *a]") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}
    assert LazyConfig.loads("a: " + "[" * 40 + "]" * 40)["a"]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "holds no keys: expected a mapping, found nothing"),
        (b"- 1", "holds no keys: expected a mapping, found ListConfig"),
        (b"\xff\xfe\x80", "c.yaml: UnicodeDecodeError"),
        (BOMB.encode(), "c.yaml: YAMLError: more than 100,000 values"),
        (b"model: ${x}", r"model=\$\{x\}: refers to what is not there"),
        (b"train: ${x}", r"train=\$\{x\}: refers to what is not there"),
        (b"train: {seed: '${nope.x}'}", r"train\.seed=\$\{nope\.x\}: refers to what is not there"),
        (b"train: {seed: '${train.seed}'}", r"train\.seed=\$\{train\.seed\}: refers to what is not there, or to"),
    ],
)
def test_config_files(tmp_path, content, expected):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        load_config(tmp_path / "c.yaml")


def test_what_a_run_cannot_resolve_is_refused_as_it_goes_on(tmp_path):
    from detrex_ext.engine import train

    cfg = load_config("small", (), [f"train.output_dir={tmp_path}"])
    cfg.train.seed = "${nope.x}"
    with pytest.raises(UserError, match=r"train\.seed=\$\{nope\.x\}: refers to what is not there"):
        train(cfg)


# ---- inside of a checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of a narrow model."""
    cfg = load_config("small", (), ["model.num_classes=3", "model.decoder.num_layers=1"])
    data = {"model": build_for_inference(cfg).state_dict(), "class_names": ["a", "b", "c"]}
    return data, save_config(cfg, tmp_path_factory.mktemp("config") / "config.yaml")


ENCODER = "  encoder: {_target_: detrex_ext.modeling.encoders.FlattenEncoder}"
AUGMENTATION = "      augmentation:\n      - {short"
CONFIGS = {
    "model": ["3", "null", "[1, 2]", "'${x}'", "{a: 1}", "abc", "???"],
    "encoder": [
        *("'${model.encoder}'", "'${foo:bar}'", "'${foo'", "{_target_: '${nope.x}'}"),
        *("{_target_: torch.nn.Identity, 3: 4}", "{_target_: torch.nn.Identity, null: 4}"),
        *("{_target_: torch.nn.Identity, 3.5: 4}", "{a: " * 600, "[" * 3000),
        *("{_target_: 3}", "{_target_: null}", "{_target_: ''}", "{_target_: torch.nn..x}", "3", "null", "&a [*a]"),
        *("{_target_: torch.nn.Identity, x: '${model}'}",),
    ],
    "augmentation": ["3", "'${x}'", "[abc, 4]", "{a: b}", "{_target_: torch.nn.Identity}"],
}  # fmt: skip


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("key, value", [(key, value) for key, values in CONFIGS.items() for value in values])
def test_config_in_a_checkpoint(whole, tmp_path, key, value, trust):
    data, text = whole
    if key == "model":
        text = f"model: {value}\n"
    elif key == "encoder":
        assert ENCODER in text
        text = text.replace(ENCODER, f"  encoder: {value}")
    else:
        assert AUGMENTATION in text
        text = text.replace(AUGMENTATION, f"      augmentation: {value}\n      rest:\n      - {{short")
    torch.save({**data, "config": text}, tmp_path / "a.pth")
    with pytest.raises(UserError):
        detrex_ext.load(tmp_path / "a.pth", device="cpu", trust=trust)


@pytest.mark.parametrize("text", ["", "- 1", "abc", "model: [", BOMB])
def test_the_file_is_named(whole, tmp_path, text):
    torch.save({**whole[0], "config": text}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"^checkpoint .*a\.pth: its config (cannot be used|has no 'model')"):
        detrex_ext.load(tmp_path / "a.pth", device="cpu")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80", BOMB.encode(), b"model: 3"])
def test_beside_a_checkpoint(whole, tmp_path, content):
    torch.save(whole[0], tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match="its config (cannot be used|has no 'model')"):
        detrex_ext.load(tmp_path, device="cpu")


@pytest.mark.parametrize("dataset", ["3", "{train_json: 3}", "{train_json: '${x}'}", "'${x}'", "[1]", "null"])
def test_classes_are_looked_for_where_they_may_be(whole, tmp_path, dataset):
    data, text = whole
    text = LazyConfig.dumps(DictConfig({"model": LazyConfig.loads(text).model})) + f"dataset: {dataset}\n"
    torch.save({"model": data["model"], "config": text}, tmp_path / "a.pth")
    assert detrex_ext.load(tmp_path / "a.pth", device="cpu").class_names == ["class 0", "class 1", "class 2"]
