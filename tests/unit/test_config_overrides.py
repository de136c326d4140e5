"""Strict overrides: what is set, what is refused, and what the refusal says."""

from __future__ import annotations

import os

import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext.errors import UserError
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import LazyConfig


@pytest.fixture
def cfg():
    values = {
        "train": {
            "max_iter": 90, "lr": 0.1, "out": "./o", "amp": {"enabled": False}, "seed": None,
            "half": "${train.max_iter}",
        },
        "model": L(torch.nn.Linear)(in_features=3, out_features=4),
        "sizes": [1, 2],
        "optimizer": L(torch.optim.AdamW)(lr=1e-4, betas=[0.9, 0.999]),
    }  # fmt: skip
    return OmegaConf.create(values, flags={"allow_objects": True})


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.max_iter=5", "train.max_iter", 5),
        ("train.max_iter=1e3", "train.max_iter", 1000),
        ("train.lr=1", "train.lr", 1.0),
        ("train.amp.enabled=true", "train.amp.enabled", True),
        ("train.seed=7", "train.seed", 7),
        ("train.seed=(1,2)", "train.seed", "(1,2)"),
        ("train.out=/a/b=c (1).pth", "train.out", "/a/b=c (1).pth"),
        ("train.out='quoted'", "train.out", "quoted"),
        ("train.out=a,b", "train.out", "a,b"),
        ("train.out=2024", "train.out", "2024"),
        ("train.out=", "train.out", ""),
        ("train.out=null", "train.out", None),
        ("train.half=3", "train.half", 3),
        ("sizes=[3,4,5]", "sizes", [3, 4, 5]),
        ("sizes.0=7", "sizes", [7, 2]),
        ("sizes[1]=7", "sizes", [1, 7]),
        ("model=null", "model", None),
        ("model.bias=false", "model.bias", False),
        ("model._target_=torch.nn.Bilinear", "model._target_", "torch.nn.Bilinear"),
        ("optimizer.weight_decay=1", "optimizer.weight_decay", 1.0),
        ("train.out=~/o", "train.out", os.path.expanduser("~/o")),
        ("+train.new.key=3", "train.new.key", 3),
        ("++train.max_iter=abc", "train.max_iter", "abc"),
        ("++train=3", "train", 3),
    ],
)
def test_accepted(cfg, text, key, value):
    out = LazyConfig.apply_overrides(cfg, [text])
    found = OmegaConf.select(cfg, key)
    assert out is cfg and found == value and isinstance(found, type(value) if not isinstance(value, list) else object)


def test_dicts_are_merged_and_interpolations_stay_alive(cfg):
    LazyConfig.apply_overrides(cfg, ["train={max_iter: 1e2, amp: {enabled: true}}", "train.lr=${train.max_iter}"])
    assert cfg.train.out == "./o" and cfg.train.amp.enabled is True and cfg.train.lr == 100
    cfg.train.max_iter = 5
    assert cfg.train.lr == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.max_iter=abc", ["train.max_iter", "expected int", "'abc'", "now 90"]),
        ("train.max_iter=1.5", ["expected int", "1.5"]),
        ("train.max_iter=true", ["expected int", "bool True"]),
        ("train.max_iter=(1,2)", ["expected int", "(1,2)"]),
        ("train.max_iter=1,2", ["expected int", "'1,2'"]),
        ("train.max_iter=range(1,4)", ["expected int", "'range(1,4)'"]),
        ("train.max_iter=choice(1,2)", ["expected int", "'choice(1,2)'"]),
        ("train.max_itr=5", ["unknown key 'train.max_itr'", "did you mean train.max_iter (int, now 90)"]),
        ("model@pkg.bias=false", ["unknown key 'model@pkg.bias'"]),
        ("train.lr=fast", ["expected float", "'fast'"]),
        ("train.amp.enabled=1", ["expected bool", "int 1"]),
        ("train.amp.enabled=yes", ["expected bool", "'yes'"]),
        ("train.out=true", ["expected str", "bool True"]),
        ("train.out=[1]", ["expected str", "list [1]"]),
        ("sizes=3", ["expected list", "int 3"]),
        ("model.bias=3", ["model.bias", "expected bool"]),
        ("train=3", ["train", "section", "++train=3"]),
        ("train=null", ["section", "null"]),
        ("train={max_itr: 3}", ["unknown key 'train.max_itr'", "train.max_iter (int, now 90)"]),
        ("train.max_iter.sub=3", ["unknown key 'train.max_iter.sub'", "not a section but int 90"]),
        ("sizes.5=1", ["unknown key 'sizes.5'"]),
        ("model.bia=true", ["unknown key 'model.bia'", "model.bias (not set, default True)"]),
        ("amp.enabled=true", ["did you mean train.amp.enabled (bool, now False)"]),
        ("train.ampl=true", ["did you mean train.amp (section)?"]),
        ("train.zzz=1", ["train has: max_iter, lr, out, amp, seed, half\n  a new key"]),
        ("model.zzz=1", ["model has: in_features, out_features, bias,"]),
        ("zzz=1", ["unknown key 'zzz'", "a new key on purpose: +zzz=1"]),
        ("train.lr=${train.nothing}", ["train.lr", "nothing"]),
        ("+train.lr=1", ["there already", "train.lr=1"]),
        ("~train.lr", ["cannot be deleted", "train.lr=null"]),
        ("train.lr", ["not an override", "key=value"]),
        ("--resum", ["unknown flag '--resum'"]),
    ],
)
def test_refused(cfg, text, said):
    before = OmegaConf.to_container(cfg, resolve=False)
    with pytest.raises(UserError) as caught:
        LazyConfig.apply_overrides(cfg, [text])
    message = str(caught.value)
    assert all(part in message for part in said), message
    if "${" not in text:
        assert OmegaConf.to_container(cfg, resolve=False) == before


def test_an_option_of_a_strategy_that_is_not_laid_over_names_its_overlay():
    cfg = OmegaConf.create({"model": {"strategies": {"sqr": {"window": 2}}}})
    with pytest.raises(UserError, match=r"unknown key 'model.strategies.dac.matcher.k'.*\n.*--overlay dac$"):
        LazyConfig.apply_overrides(cfg, ["model.strategies.dac.matcher.k=3"])
    with pytest.raises(UserError, match=r"did you mean model.strategies.sqr.window .*: \+model.strategies.sqr.windw="):
        LazyConfig.apply_overrides(cfg, ["model.strategies.sqr.windw=3"])


def test_the_message_for_an_unknown_key_is_the_documented_one(cfg):
    with pytest.raises(UserError) as caught:
        LazyConfig.apply_overrides(cfg, ["train.max_iter=1", "train.amp.enable=true", "train.lr=1"])
    assert str(caught.value) == (
        "unknown key 'train.amp.enable' (override 2 of 3)\n"
        "  did you mean train.amp.enabled (bool, now False)?   a new key on purpose: +train.amp.enable=true"
    )


@pytest.mark.parametrize("text", ["train.max_itr=5", "train.max_iter.sub=3"])
def test_an_unknown_key_is_a_key_error_too_for_code_of_detectron2(cfg, text):
    with pytest.raises(KeyError) as caught:
        LazyConfig.apply_overrides(cfg, [text])
    assert isinstance(caught.value, UserError)
    assert str(caught.value).startswith(f"unknown key '{text.partition('=')[0]}'") and "\n" in str(caught.value)
