"""SGD and AdamW as one optimizer: against torch's two side by side, in a state dict, by a schedule, from a config."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from detrex_ext.config import get_config
from detrex_ext.engine import (
    LrFactor,
    Precision,
    SGDAndAdamW,
    Trainer,
    build_optimizer,
    slow_down,
    two_optimizer_params,
)
from detrex_ext.engine.hooks import shown_groups
from detrex_ext.engine.optim import clipping, load_optimizer_state
from detrex_ext.errors import UserError
from detrex_ext.runtime import LRMultiplier


class Net(nn.Module):
    """A part for each optimizer, with norms, biases, an in_proj_bias and something frozen."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1))
        self.backbone[0].requires_grad_(False)
        self.encoder = nn.Module()
        self.encoder.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder.enc_proj = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        tokens = self.encoder.enc_proj(self.backbone(x).flatten(2).transpose(1, 2))
        return self.head(self.encoder.encoder(tokens)).square().mean()


OPTIONS = {"adamw": ["encoder.encoder."], "base_lr": 0.01, "adamw_lr": 1e-4, "weight_decay_norm": 0.0}


def two(model, how=None, **options):
    groups = two_optimizer_params(model, **{**OPTIONS, **options})
    return SGDAndAdamW(groups, lr=0.01, momentum=0.9, weight_decay=1e-4, **(how or {}))


def apart(model, how=None):
    """torch's two, by hand."""
    norms = {p for m in model.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm) for p in m.parameters()}
    parts: dict[tuple[bool, bool], list] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            parts.setdefault(("encoder.encoder." in name, p in norms), []).append(p)

    def groups(adamw):
        return [{"params": parts[adamw, n], "weight_decay": 0.0 if n else 1e-4} for n in (False, True)]

    sgd = torch.optim.SGD(groups(False), lr=0.01, momentum=0.9, **(how or {}))
    return sgd, torch.optim.AdamW(groups(True), lr=1e-4, betas=(0.9, 0.999), eps=1e-8, **(how or {}))


def step(model, seed, *optimizers):
    for o in optimizers:
        o.zero_grad()
    loss = model(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed)))
    loss.backward()
    for o in optimizers:
        o.step()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}], ids=["default", "foreach", "fused"])
def test_equal_to_two_optimizers_side_by_side_to_the_bit(how):
    ours, theirs = Net(), Net()
    optimizer, both = two(ours, how), apart(theirs, how)
    assert len(optimizer.param_groups) == 4  # grouped: one call of a kernel for each optimizer and decay
    schedules = [LRMultiplier(o, MultiStepParamScheduler([1, 0.1], milestones=[4, 8]), 8) for o in (optimizer, *both)]
    for i in range(8):
        step(ours, i, optimizer)
        step(theirs, i, *both)
        for schedule in schedules:
            schedule.step() if i < 7 else None
    assert same(ours, theirs) and not same(ours, Net())
    rates = {g["optimizer"]: g["lr"] for g in optimizer.param_groups}
    assert rates == {"sgd": pytest.approx(1e-3), "adamw": pytest.approx(1e-5)}


def test_no_decay_of_norms_and_the_decay_of_all_else():
    model = Net()
    names = {p: name for name, p in model.named_parameters()}
    decays = {names[p]: g["weight_decay"] for g in two(model).param_groups for p in g["params"]}
    free = {name for name, decay in decays.items() if decay == 0}
    norms = ("backbone.1", "encoder.encoder.norm1", "encoder.encoder.norm2")
    assert free == {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    assert decays["encoder.encoder.self_attn.in_proj_bias"] == decays["head.bias"] == 1e-4
    assert set(names.values()) - set(decays) == {"backbone.0.weight", "backbone.0.bias"}


def test_a_state_goes_on_to_the_bit_and_another_is_refused():
    whole, other = Net(), Net()
    first = two(whole)
    for i in range(3):
        step(whole, i, first)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    second = two(other)
    load_optimizer_state(second, copy.deepcopy(first.state_dict()))
    for i in range(3, 6):
        step(whole, i, first)
        step(other, i, second)
    assert same(whole, other)
    third = copy.deepcopy(second)
    assert [g["optimizer"] for g in third.param_groups] == ["sgd", "sgd", "adamw", "adamw"]
    assert all(p.param_groups[0] in third.param_groups and p.state is third.state for p in third._parts.values())
    for wrong in (torch.optim.AdamW(Net().parameters()), two(Net(), adamw=["head"])):
        with pytest.raises(ValueError):
            load_optimizer_state(two(Net()), wrong.state_dict())


def test_rates_of_the_config_hold_and_the_part_of_adamw_is_no_share_of_the_other(caplog):
    model = Net()
    saved = two(model)
    step(model, 0, saved)
    twice = two(Net(), base_lr=0.02)
    load_optimizer_state(twice, saved.state_dict())
    assert {g["optimizer"]: g["lr"] for g in twice.param_groups} == {"sgd": 0.02, "adamw": 1e-4}
    assert "lr 0.01 -> 0.02" in caplog.text


def test_factors_by_name_reach_both_and_what_is_logged_is_of_each():
    factor = LrFactor({"backbone": 0.1, "linear1": 0.5})
    groups = two(Net(), lr_factor_func=factor, overrides={"in_proj_bias": {"lr": 3e-4}}).param_groups
    assert sorted({(g["optimizer"], g["lr"]) for g in groups}) == [
        ("adamw", 5e-5), ("adamw", 1e-4), ("adamw", 3e-4), ("sgd", 1e-3), ("sgd", 0.01),
    ]  # fmt: skip
    assert {name: g["lr"] for name, g in shown_groups(groups).items()} == {"lr": 0.01, "lr_adamw": 1e-4}


@pytest.mark.parametrize(
    "adamw, message",
    [
        (["encoder.encodr"], "optimizer.params.adamw: no parameter has 'encoder.encodr' in its name\n  did you mean"),
        (["encoder.encoder.", "zzz"], "'zzz' in its name\n  its parts are backbone, encoder, head"),
        ([""], "no parameter has ''"),
    ],
)
def test_wrong_names_are_refused(adamw, message):
    with pytest.raises(UserError) as error:
        two(Net(), adamw=adamw)
    assert message in str(error.value)


def test_groups_that_do_not_say_whose_they_are_are_refused():
    for groups in ([], [{"params": [nn.Parameter(torch.ones(1))]}], list(Net().parameters())):
        with pytest.raises(ValueError, match="two_optimizer_params"):
            SGDAndAdamW(groups)


def test_a_part_that_is_all_or_frozen_leaves_one_optimizer():
    assert {g["optimizer"] for g in two(Net(), adamw=["backbone", "encoder", "head"]).param_groups} == {"adamw"}
    model = Net()
    model.encoder.encoder.requires_grad_(False)
    optimizer = two(model)
    step(model, 0, optimizer)
    assert {g["optimizer"] for g in optimizer.param_groups} == {"sgd"}


def test_from_a_config():
    cfg = get_config("common/optim.py")
    cfg.optimizer = cfg.SGDAndAdamW
    slow_down(cfg, "backbone", 0.1)
    optimizer = build_optimizer(cfg, Net())
    found = {(g["optimizer"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert ("sgd", 0.001, 1e-4) in found and ("adamw", 1e-4, 0.0) in found
    cfg.optimizer.lr = 0.04  # for a larger batch
    assert {g["lr"] for g in build_optimizer(cfg, Net()).param_groups if g["optimizer"] == "adamw"} == {1e-4}


def clip(**more):
    return {"enabled": True, "params": {"max_norm": 0.01, "norm_type": 2}, **more}


def test_clipping_a_part_alone():
    model, free = Net(), Net()
    args = clipping(clip(only=["encoder.encoder."]), model)
    assert len(args["parameters"]) == 12

    class Batches:
        def __iter__(self):
            while True:
                yield [{"image": torch.ones(3, 5, 5), "instances": [0]}]

    class Wrapped(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, batch):
            return {"loss": 1e3 * self.net(torch.stack([x["image"] for x in batch]))}

    for net, given in ((model, args), (free, None)):
        t = Trainer(Wrapped(net), Batches(), two(net), precision=Precision("cpu", False), clip_grad=given, log_period=1)
        t.train(0, 1)
    grads, loose = ({n: p.grad for n, p in net.named_parameters() if p.grad is not None} for net in (model, free))
    part = [n for n in grads if "encoder.encoder." in n]
    assert math.isclose(torch.stack([grads[n].norm() for n in part]).norm(), 0.01, rel_tol=1e-4)
    assert all(torch.equal(grads[n], loose[n]) for n in grads if n not in part)
    with pytest.raises(UserError, match="train.clip_grad.only: no parameter has 'encoder.decoder' in its name"):
        clipping(clip(only=["encoder.decoder"]), model)


def test_a_scaler_of_losses_skips_both_where_a_gradient_is_not_finite():
    model = Net()
    optimizer, scaler = two(model), torch.amp.GradScaler("cpu", init_scale=2.0)
    for bad in (True, False):
        before = copy.deepcopy(model)
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(2, 3, 5, 5))).backward()
        if bad:
            model.head.bias.grad[0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        assert same(before, model) == bad
