"""What a training does otherwise where it runs on a GPU; shown on tensors without values."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from data_sets import coco, write
from no_values import without_values
from omegaconf import OmegaConf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_ext.criterion import SoftmaxLoss, Supervision
from detrex_ext.data import CocoDataset, DetrMapper, build_train_loader
from detrex_ext.engine import compiling
from detrex_ext.engine.optim import build_optimizer, load_optimizer_state
from detrex_ext.errors import UserError
from detrex_ext.matching import OneToManyMatcher, stack_sets
from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import get_default_optimizer_params
from detrex_ext.structures import Assignment, Pairs, SupervisedSet, Targets


def optimizer_of(model, kind=torch.optim.AdamW, **options):
    cfg = OmegaConf.create({"optimizer": L(kind)(params=L(get_default_optimizer_params)(), lr=0.1, **options)})
    made = build_optimizer(cfg, model)
    assert "fused" in options or "fused" not in cfg.optimizer
    return made


def test_adamw_is_one_kernel_on_a_gpu_unless_the_config_says_otherwise():
    with without_values():
        model = nn.Linear(2, 3, device="cuda")
        assert all(group["fused"] for group in optimizer_of(model).param_groups)
        assert optimizer_of(model, fused=False).defaults["fused"] is False
        assert optimizer_of(model, foreach=True).defaults["fused"] is None
        assert optimizer_of(model, torch.optim.SGD).defaults["fused"] is None
        mixed = nn.ModuleList([model, nn.Linear(2, 3)])
        assert optimizer_of(mixed).defaults["fused"] is None
    assert optimizer_of(nn.Linear(2, 3)).defaults["fused"] is None


def test_a_run_of_before_goes_on_with_the_kernel_now_in_use():
    """Its counts of steps lie on the CPU, where the kernel cannot read them."""
    with without_values():
        model = nn.Linear(2, 3, device="cuda")
        before, now = optimizer_of(model, fused=False), optimizer_of(model)
        for p in model.parameters():
            before.state[p] = {"step": torch.tensor(3.0), "exp_avg": p.detach(), "exp_avg_sq": p.detach()}
        state = before.state_dict()
        kept = copy.deepcopy(state["param_groups"])
        load_optimizer_state(now, state)
        assert {values["step"].device.type for values in now.state.values()} == {"cuda"}
        assert all(group["fused"] for group in now.param_groups) and state["param_groups"] == kept


class NumbersOfTheHost(TorchDispatchMode):
    """Refuses to write a number that lies on the host into a tensor of a GPU: the copy would be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.index_put_, torch.ops.aten.index_put):
            assert args[0].device == args[2].device, f"{args[2].shape} of {args[2].device} in {args[0].shape}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("what", [OneToManyMatcher(), SoftmaxLoss()])
def test_no_number_of_the_host_is_written(what):
    with without_values():
        here = torch.zeros(1, device="cuda")
        with pytest.raises(AssertionError), NumbersOfTheHost():
            here.index_put_((torch.zeros(1, dtype=torch.int64, device="cuda"),), torch.tensor(1.0))
        targets = Targets((torch.zeros(3, dtype=torch.int64, device="cuda"),), (torch.rand(3, 4, device="cuda"),),
                          torch.ones(1, 2, device="cuda"))  # fmt: skip
        made = SupervisedSet(torch.randn(1, 9, 5, device="cuda"), torch.rand(1, 9, 4, device="cuda"), 0)
        stack = stack_sets([replace(made, softmax=isinstance(what, SoftmaxLoss))])
        with NumbersOfTheHost():
            if isinstance(what, OneToManyMatcher):
                assert what.match(stack, targets).cls.query_P.device.type == "cuda"
            else:
                index = torch.zeros(3, dtype=torch.int64, device="cuda")
                pairs = Pairs(index, index, index, index)
                found = what(Supervision(stack, Assignment(pairs, pairs), targets))
                assert found.device.type == "cuda" and found.shape == (1,)


@pytest.mark.parametrize("stated", [None, False, True])
def test_batches_are_pinned_where_they_go_to_a_gpu(tmp_path, stated):
    dataset = CocoDataset(write(tmp_path, coco(2)))
    loader = build_train_loader(dataset, DetrMapper([]), 1, num_workers=0, pin_memory=stated)
    found = []
    for device in ("cpu", "cuda"):
        loader.set_device(torch.device(device))
        found.append(loader._loader.pin_memory)
    assert found == ([False, True] if stated is None else [stated] * 2)


def built(monkeypatch, model, **train):
    monkeypatch.setattr(compiling.setup, "build_model", lambda cfg: model)
    options = {"compile": None, "cuda_graphs": False, "accumulate_steps": 1, **train}
    return compiling.build_to_train(OmegaConf.create({"train": options}))


def test_a_loss_is_looked_at_once_in_a_step_on_a_gpu(monkeypatch):
    class Criterion:
        check_finite = True

    for device, checks in (("cpu", True), ("cuda", False)):
        with without_values():
            model = nn.Linear(2, 3, device=device)
        model.criterion = Criterion()
        assert built(monkeypatch, model).criterion.check_finite is checks


def test_graphs_are_refused_where_gradients_are_gathered(monkeypatch):
    with pytest.raises(UserError, match="would be written over.*\n  use train.accumulate_steps=1"):
        built(monkeypatch, nn.Linear(2, 3), cuda_graphs=True, accumulate_steps=2, compile="all")
