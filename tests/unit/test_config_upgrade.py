"""Configs and names of before: they are read as what is said now, and mean the same."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext.config import LazyConfig, load_config, parts, upgrade
from detrex_ext.config.renamed import KEYS, TARGETS
from detrex_ext.config.upgrade import absolute
from detrex_ext.data import MixUp, Mosaic
from detrex_ext.inference import build_for_inference
from detrex_ext.modeling.detector import Detector
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import instantiate
from detrex_ext.strategies import QueryRecollection

# written by the version in whose configs dicts of parts were plain and references relative
BEFORE = Path(__file__).resolve().parents[1] / "data" / "configs"
# what a config of before leaves to the default, and what says that a dict is a call
OF_RUNTIME = ".get_default_optimizer_params"  # it is detectron2's where that is installed
SAID_SINCE = (("inverse_sigmoid_eps", 1e-3), ("_target_", "builtins.dict"))
# keys of train that were not there then
SINCE = (
    "minutes early_stop teacher epochs non_finite scale_lr resume_override watchdog compile cuda_graphs fsdp "
    "activation_checkpointing report overfit eval_loss writers"
).split()
THEN = {"small": ("sqr", "dac"), "dino_r50_4scale_12ep": ("ice",)}


def meaning(cfg):
    """A config as plain values, references followed, without what only says that a dict is a call."""

    def plain(node):
        if isinstance(node, dict):
            node = {k: v for k, v in node.items() if (k, v) not in SAID_SINCE and not str(v).endswith(OF_RUNTIME)}
            return {k: plain(v) for k, v in node.items()}
        return [plain(v) for v in node] if isinstance(node, list | tuple) else node

    text = LazyConfig.dumps(cfg)
    return plain(OmegaConf.to_container(LazyConfig.loads(text), resolve=True))


@pytest.mark.parametrize("name", THEN)
def test_a_config_of_before_means_what_it_meant(name, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    text = (BEFORE / f"{name}.yaml").read_text()
    assert "builtins.dict" not in text and "${.." in text
    then, now = load_config(BEFORE / f"{name}.yaml"), load_config(name, THEN[name])
    for since in SINCE:
        now.train.pop(since)
    steps = now.dataloader.train.mapper.augmentation
    now.dataloader.train.mapper.augmentation = [s for s in steps if s._target_ not in (Mosaic, MixUp)]
    for loader in (now.dataloader.train, now.dataloader.test):
        assert not loader.dataset.pop("outside_images")
    for since in ("mosaic", "mixup", "plain_from", "outside_images"):
        assert not now.dataset.pop(since, 0) or since == "plain_from"
    now.train.best_checkpoint.pop("restore")
    now.train.clip_grad.pop("only")
    for since in ("bucket_cap_mb", "bf16_compression"):
        now.train.ddp.pop(since)
    now.train.amp.enabled = then.train.amp.enabled  # it is "auto" since
    # DINO's asked for the trained weights, and averages none
    now.train.model_ema.average = then.train.model_ema.average = True
    assert meaning(then) == meaning(now)
    assert "${.." not in LazyConfig.dumps(then), "nodes may be moved about"
    one, two = (instantiate_on_meta(c) for c in (then, now))
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in two.state_dict().items()}
    assert sorted(map(str, one.criterion.rules)) == sorted(map(str, two.criterion.rules))
    assert set(one.strategies) == set(two.strategies)


def instantiate_on_meta(cfg):
    cfg.model.num_classes = 3
    with torch.device("meta"):
        return instantiate(cfg.model)


@pytest.mark.parametrize("name", THEN)
def test_a_size_of_a_config_of_before_has_one_key(name):
    cfg = load_config(BEFORE / f"{name}.yaml", (), ["model.dim=64", "model.num_heads=4"])
    model = instantiate_on_meta(cfg)
    assert (model.dim, model.decoder.dim, model.queries.source.dim) == (64, 64, 64)
    assert load_config(BEFORE / f"{name}.yaml", ["tiny"]).model.decoder.dim == 128


@pytest.mark.parametrize("name", THEN)
def test_overlays_and_overrides_reach_into_a_config_of_before(name):
    cfg = load_config(
        BEFORE / f"{name}.yaml",
        ["sqr", "group"],
        ["model.strategies.sqr.window=3", "model.rules.main.matcher.costs.0.weight=7", "model.num_classes=5"],
    )
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.strategies["sqr"].window == 3
    assert {s.class_embed.out_features for s in _two_stage(model)} == {5}
    assert model.rules["group"].matcher.costs[0].weight == 7
    assert build_for_inference(cfg).rules == {}


def _two_stage(model):
    return [m for m in model.queries.modules() if type(m).__name__ == "TwoStageQueries"]


def test_references_are_absolute_from_wherever_they_are():
    items = [{"x": "${...n}", "y": "${.x}"}, "${..k}", [0]]
    values = {"m": {"a": 1, "q": {"n": "${..a}", "k": "${.n}", "l": items}}}
    values["m"]["q"]["l"][2].append("${..0.x} and ${m.a}")
    cfg = OmegaConf.create(values)
    cfg.m.q.l[2][0] = 7
    then = OmegaConf.to_container(cfg, resolve=True)
    text = OmegaConf.to_yaml(absolute(cfg))
    assert OmegaConf.to_container(cfg, resolve=True) == then and "${." not in text and "${m.q.l[0].x}" in text


def test_a_config_of_text_is_read_without_load_config():
    cfg = LazyConfig.loads((BEFORE / "small.yaml").read_text())
    assert set(instantiate_on_meta(cfg).strategies) == {"sqr", "dac"}


def test_dicts_of_parts_are_ordinary_calls():
    cfg = load_config("small", ["sqr"], ["model.num_classes=3"])
    assert list(parts(cfg.model.strategies)) == ["sqr"] and list(parts(cfg.model.rules)) == ["main", "enc", "dn"]
    assert parts(None) == parts({}) == {}
    made = instantiate(cfg.model.strategies)
    assert type(made) is dict and list(made) == ["sqr"] and isinstance(made["sqr"], QueryRecollection)


@pytest.mark.parametrize("nothing", ["model.strategies.sqr=null", "model.strategies=null"])
def test_a_strategy_that_is_null_is_none(nothing):
    model = instantiate_on_meta(load_config("small", ["sqr"], [nothing]))
    assert model.strategies == {}


def test_plain_dicts_of_ones_own_config_become_calls(tmp_path):
    (tmp_path / "c.py").write_text(
        "from detrex_ext import get_config\n"
        "from detrex_ext.criterion import FocalLoss, Term\n"
        "from detrex_ext.runtime import LazyCall as L\n"
        "from detrex_ext.strategies import QueryRecollection\n"
        "model = get_config('common/models/deformable_detr_r50.py').model\n"
        "model.strategies = dict(sqr=L(QueryRecollection)(window=4))\n"
        "model.rules.main.terms = {'class': L(Term)(loss=L(FocalLoss)())}\n"
    )
    for cfg in (load_config(tmp_path / "c.py"), LazyConfig.load(str(tmp_path / "c.py"))):
        model = instantiate_on_meta(cfg)
        assert model.strategies["sqr"].window == 4 and list(model.rules["main"].terms) == ["class"]
    cfg = load_config("small")
    cfg.model.strategies = {"sqr": L(QueryRecollection)(window=4)}
    assert instantiate_on_meta(upgrade(cfg)).strategies["sqr"].window == 4


def test_what_nothing_made_is_no_part():
    with pytest.raises(TypeError, match=r"strategies\.sqr is a config, not an object.*builtins\.dict"):
        Detector(*[None] * 7, num_classes=3, strategies={"sqr": L(QueryRecollection)()})


def test_a_message_does_not_show_how_a_dict_of_parts_is_made():
    with pytest.raises(Exception, match=r"is a section \(main, enc, dn\)"):
        load_config("small", (), ["model.rules=3"])


def test_what_has_a_new_name_is_taken_by_the_old_one(monkeypatch, caplog):
    monkeypatch.setitem(KEYS, "train.old.name", "train.seed")
    monkeypatch.setitem(KEYS, "train.checkpointing", "train.checkpointer")
    neck = "detrex_ext.modeling.necks.PAFPN"
    monkeypatch.setitem(TARGETS, "somewhere.else.Neck", neck)
    monkeypatch.setattr(logging.getLogger("detrex_ext"), "propagate", True)
    cfg = LazyConfig.loads("train: {old: {name: 3}}\nx: {_target_: somewhere.else.Neck}\n")
    assert cfg == {"train": {"old": {}, "seed": 3}, "x": {"_target_": neck}}
    assert "'train.old.name' is called 'train.seed' now" in caplog.text and f"{neck} now" in caplog.text
    cfg = load_config(
        "small", (), ["train.old.name=4", "train.checkpointing.period=7", "model.neck._target_=somewhere.else.Neck"]
    )
    assert (cfg.train.seed, cfg.train.checkpointer.period) == (4, 7) and cfg.model.neck._target_ == neck
