"""The overlay `tiny`: every shipped host small, with the recipe for the shapes data, and still the same host."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.config import find_config, load_config, shipped_configs
from detrex_ext.runtime import instantiate
from detrex_ext.testing import example_batch


def tiny(name):
    return load_config(find_config(name), ["tiny"], ["model.num_classes=4"])


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_one_training_step_of_every_config(name):
    full, cfg = load_config(find_config(name)), tiny(name)
    for part in ("neck", "encoder", "queries", "decoder"):
        assert cfg.model[part]._target_ == full.model[part]._target_
    assert cfg.model.rules == full.model.rules and cfg.model.strategies == full.model.strategies
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    assert sum(p.numel() for p in model.parameters()) < 7e6
    optimizer_cfg = cfg.optimizer
    optimizer_cfg.params.model = model
    optimizer = instantiate(optimizer_cfg)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(example_batch(4))
    sum(losses.values()).backward()
    optimizer.step()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.isfinite().all() for p in trained)
    assert sum(p.grad is not None and bool(p.grad.any()) for p in trained) > 0.8 * len(trained)


def test_the_recipe_is_that_of_the_quickstart():
    cfg, recipe = tiny("deformable_detr_r50_50ep"), load_config(find_config("quickstart"))
    assert cfg.train.output_dir == "./output/deformable_detr_r50_50ep_tiny"
    for part in ("dataset", "dataloader", "lr_multiplier"):
        assert cfg[part] == recipe[part]
    assert cfg.optimizer == {**recipe.optimizer, "lr": 1e-3}
    assert cfg.train.device == "cpu" and cfg.train.amp.enabled and not cfg.train.init_checkpoint


def test_sizes_can_be_chosen():
    cfg = load_config("deformable_detr_r50_50ep", [("tiny", {"num_queries": 7})])
    assert cfg.model.queries.num_queries == 7 and cfg.model.queries.dim == cfg.model.decoder.dim == 128


def test_a_host_of_one_map_gets_one_with_enough_places():
    cfg = tiny("detr_r50_300ep")
    assert (cfg.model.neck.in_feature, cfg.model.neck.in_channels) == ("res4", 128)
    assert instantiate(cfg.model.backbone).output_shape()["res4"].stride == 16
