"""Activation checkpointing by part: the same losses and gradients to the bit, from less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from detrex_ext.analysis.costs import Costs
from detrex_ext.benchmark.models import HOSTS
from detrex_ext.config import load_config
from detrex_ext.engine.compiling import build_to_train
from detrex_ext.engine.recomputing import recompute_parts
from detrex_ext.errors import UserError
from detrex_ext.layers.dropout import Dropout
from detrex_ext.modeling.backbones import MobileNetV2, ResNet, SwinTransformer
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch

NARROW = ("tiny", {"dim": 32, "ffn_dim": 64, "num_layers": 2, "dropout": 0.2, "num_queries": 12, "in_points": 8,
                   "out_points": 8, "channels": 64, "number": 4})  # fmt: skip
TABLE = {**HOSTS, "TSP-FCOS R50": "tsp_fcos_r50_3x"}


def model_of(host, *overlays):
    torch.manual_seed(0)
    cfg = load_config(TABLE[host], (NARROW, *overlays), ("model.num_classes=4",))
    return instantiate(cfg.model).train()


def step(model):
    """Losses, gradients, the generator's state afterwards, and the most bytes in use before the backward pass."""
    torch.manual_seed(5)
    with Costs() as costs:
        losses = model(example_batch(4, (3, 0), (64, 96)))
        costs.restart()
        used = costs.peak
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, grads, torch.get_rng_state(), used


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("host", TABLE)
def test_losses_gradients_and_random_numbers_are_those_of_before(host):
    plain = model_of(host)
    assert host in ("DINO R50", "DAB-DETR R50") or any(isinstance(m, Dropout) for m in plain.modules())
    again = copy.deepcopy(plain)
    recompute_parts(again, "all")
    (losses, grads, state, used), (losses2, grads2, state2, used2) = step(plain), step(again)
    assert equal(losses, losses2) and equal(grads, grads2) and torch.equal(state, state2)
    assert used2 < used


@pytest.mark.parametrize("strategy", ["sqr", "dac", ("hybrid", {"num_extra": 12})])
def test_a_decoder_under_strategies_keeps_less(strategy):
    plain = model_of("Deformable-DETR R50", strategy)
    again = copy.deepcopy(plain)
    recompute_parts(again, "decoder")
    found, found2 = step(plain), step(again)
    assert equal(found[0], found2[0]) and equal(found[1], found2[1]) and found2[3] < 0.9 * found[3]
    assert again.encoder.checkpoint is False


@pytest.mark.parametrize("make", [lambda: ResNet(18), lambda: ResNet(18, norm="EvalBN"), lambda: SwinTransformer(
    8, (1, 1, 2, 1), (1, 2, 2, 4), drop_path=0.5)])  # fmt: skip
def test_a_backbone(make):
    torch.manual_seed(0)
    plain = nn.Module()
    plain.backbone = make().train()
    again = copy.deepcopy(plain)
    recompute_parts(again, "backbone")
    found = []
    for model in (plain, again):
        torch.manual_seed(1)
        images = torch.randn(2, 3, 64, 64)
        sum(v.square().mean() for v in model.backbone(images).values()).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert equal(*found) and again.backbone.checkpoint


def test_what_cannot_is_told(caplog):
    caplog.set_level("INFO")
    model = nn.Module()
    with pytest.raises(UserError, match="expected one of backbone, encoder, decoder, all, or null"):
        recompute_parts(model, "neck")
    with pytest.raises(UserError, match="the model has no part 'encoder'"):
        recompute_parts(model, "encoder")
    model.backbone = ResNet(18, norm="BN")
    with pytest.raises(UserError, match="ResNet's trained batch norm would be updated twice"):
        recompute_parts(model, "all")
    model.backbone, model.encoder = MobileNetV2(), nn.Identity()
    with pytest.raises(UserError, match="MobileNetV2 has no layers to compute again"):
        recompute_parts(model, "backbone")
    recompute_parts(model, None)
    model.backbone = ResNet(18)
    recompute_parts(model, "all")
    assert "memory: backbone; not encoder: Identity has no layers to compute again; not decoder" in caplog.text
    assert model.backbone.checkpoint


def test_a_config_turns_it_on():
    cfg = load_config("detr_r50_300ep", (NARROW,), ("train.activation_checkpointing=decoder", "model.num_classes=2"))
    cfg.train.device = "cpu"
    cfg.train = OmegaConf.merge({"compile": None, "cuda_graphs": False, "accumulate_steps": 1}, cfg.train)
    model = build_to_train(cfg)
    assert model.decoder.checkpoint and not model.encoder.checkpoint
