"""How a model is spread over processes: what is refused, and what one process makes of it."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.distributed import fsdp

from detrex_ext.checkpoint.shards import part_like, whole
from detrex_ext.config import get_config
from detrex_ext.engine import sharding
from detrex_ext.errors import UserError


def config(*overrides):
    cfg = OmegaConf.create({"train": OmegaConf.to_container(get_config("common/train.py").train)})
    return OmegaConf.merge(cfg, OmegaConf.from_dotlist([f"train.{text}" for text in overrides]))


def test_one_process_is_as_it_was():
    model = nn.Linear(2, 2)
    assert sharding.over_processes(config(), model) is model
    assert not sharding.is_sharded(model)
    with sharding.gathered(model), sharding.unsynced(model):
        pass


@pytest.mark.parametrize(
    "option",
    ["compile=all", "model_ema.enabled=true", "channels_last=true", "ddp.fp16_compression=true",
     "ddp.bf16_compression=true"],
)  # fmt: skip
def test_what_was_never_tried_with_shards_is_refused(option):
    with pytest.raises(UserError, match=f"train.fsdp=true does not go with train.{option}\n  leave one"):
        sharding.over_processes(config("fsdp=true", option), nn.Linear(2, 2))


def test_parameters_that_a_route_holds_are_not_shared_out():
    model = nn.Linear(2, 2)
    model.training_only = nn.ModuleDict({"mr": nn.Linear(2, 2)})
    with pytest.raises(UserError, match="strategies that have parameters of their own: mr\n  leave the strategy out"):
        sharding.over_processes(config("fsdp=true"), model)


@pytest.mark.parametrize("enabled", [True, "auto"])
def test_losses_are_not_scaled_over_shards(enabled):
    with pytest.raises(UserError, match=r"train\.amp\.dtype=fp16"):
        sharding.over_processes(config("fsdp=true", f"amp.enabled={enabled}", "amp.dtype=fp16"), nn.Linear(2, 2))


def test_an_older_torch_is_told_apart(monkeypatch):
    monkeypatch.delattr(fsdp, "fully_shard", raising=False)
    with pytest.raises(UserError, match=r"needs torch 2.6 or newer, this is .*\n  pip install -U torch"):
        sharding.over_processes(config("fsdp=true"), nn.Linear(2, 2))


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="no FSDP2 in this torch")
def test_one_process_has_nobody_to_share_with(caplog):
    model = nn.Linear(2, 2)
    assert sharding.over_processes(config("fsdp=true"), model) is model and not sharding.is_sharded(model)
    assert "one process has nobody to share with" in caplog.text


def test_gradients_travel_in_one_type():
    with pytest.raises(UserError, match="gradients travel in one type"):
        sharding.over_processes(config("ddp.fp16_compression=true", "ddp.bf16_compression=true"), nn.Linear(2, 2))


def test_what_is_whole_stays_as_it_is():
    state = {"a": torch.ones(2), "b": [1, "x", None], "step": torch.tensor(3.0)}
    assert whole(state)["a"] is state["a"] and whole(state)["b"] == state["b"]
    assert part_like(state["a"], torch.zeros(2)) is state["a"] and part_like("text", torch.zeros(2)) == "text"
