"""Parameters for training only: trained, checkpointed, resumed, and in no state of a model that predicts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from narrow import NARROW
from torch import nn

import detrex_ext
from detrex_ext.checkpoint import Checkpointer, convert, load_weights, read_checkpoint
from detrex_ext.config import build, load_config
from detrex_ext.inference import build_for_inference
from detrex_ext.layers.mlp import FFN
from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import Strategy
from detrex_ext.structures import TRAINING_ONLY, cat, is_training_only, without_training_only
from detrex_ext.testing import check_strategy, example_batch


class Shifted(nn.Module, Strategy):
    """The queries of the first stage a second time, each moved by a learned step."""

    def __init__(self, dim: int = 32):
        super().__init__()
        self.step = nn.Linear(dim, dim)

    def after_stage(self, step, history, sets, q):
        if step != 0:
            return sets, q
        moved = history[0].take("main").retag(path="shifted")
        return sets, cat(moved.replace(content_BTC=self.step(moved.content_BTC)), q)

    def rules(self, host_rules):
        return [replace(host_rules["main"], when={"group": "main", "path": "shifted"})]


def config(*overrides: str):
    cfg = load_config("small", (), [*NARROW, "model.num_classes=4", "model.decoder.num_layers=2", *overrides])
    cfg.model.strategies.shifted = L(Shifted)(dim=32)
    return cfg


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(config().model, "model")


def test_the_detector_registers_what_a_strategy_owns(model):
    names = [n for n, _ in model.named_parameters() if is_training_only(n)]
    assert names == ["training_only.shifted.step.weight", "training_only.shifted.step.bias"]
    bare = build_for_inference(config())
    assert list(without_training_only(model.state_dict())) == list(bare.state_dict())


def test_the_contract_of_strategies_holds(model):
    held = check_strategy(Shifted(32), model)
    assert {"state of the bare host", "eval identity", "finite gradients", "isolation"} <= set(held)


def test_a_resumed_run_finds_them_and_a_predicting_model_has_none(model, tmp_path):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(model.train()(example_batch(4)).values()).backward()
    optimizer.step()
    names = ["a", "b", "c", "d"]
    Checkpointer(model, str(tmp_path), extra={"class_names": names}).save("model_final")
    again = build(config().model, "model")
    Checkpointer(again, str(tmp_path)).resume()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())

    path = tmp_path / "model_final.pth"
    predicting = build_for_inference(config())
    report = load_weights(predicting, path, strict=True)
    assert report.complete
    assert report.dropped == ["training_only.shifted.step.weight", "training_only.shifted.step.bias"]
    assert not any(map(is_training_only, predicting.state_dict()))
    batch = example_batch(4)
    with torch.no_grad():
        ours, theirs = model.eval().forward_sets(batch), predicting.forward_sets(batch)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)
    assert len(detrex_ext.load(config(), weights=path, device="cpu").class_names) == 4


@pytest.mark.parametrize("held", [False, True], ids=["by names", "against a model"])
def test_a_converted_file_has_none(model, tmp_path, held):
    Checkpointer(model, str(tmp_path)).save("model_final")
    fit = build_for_inference(config()) if held else None
    convert(tmp_path / "model_final.pth", tmp_path / "exported.pth", model=fit)
    keys = read_checkpoint(tmp_path / "exported.pth")["model"]
    assert keys and not any(map(is_training_only, keys))


def test_a_file_without_them_starts_a_training_with_them(model, tmp_path):
    bare = build_for_inference(config())
    Checkpointer(bare, str(tmp_path)).save("model_final")
    before = model.training_only.shifted.step.weight.clone()
    load_weights(model, tmp_path / "model_final.pth", strict=False)
    assert torch.equal(model.training_only.shifted.step.weight, before)
    assert torch.equal(model.decoder.state_dict()["class_embed.0.weight"], bare.decoder.class_embed[0].weight)


def test_a_layer_may_own_some(tmp_path):
    """A branch of a layer, under the name that says so, goes from the predicting model with the rest."""
    cfg = config()
    cfg.model.encoder = L(Branched)(dim=32)
    model = build(cfg.model, "model")
    assert f"encoder.{TRAINING_ONLY}.layers.0.0.weight" in model.state_dict()
    assert not any(map(is_training_only, build_for_inference(cfg).state_dict()))


class Branched(detrex_ext.get_config("small.py").model.encoder._target_):
    """The host's encoder with a branch that acts in training alone."""

    def __init__(self, dim: int):
        super().__init__()
        self.training_only = FFN(dim, dim)
